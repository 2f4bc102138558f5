//! tmp
use anyhow::Result;
use nameward_policy::Rule;
pub(super) fn read_all(_files: &[std::path::PathBuf]) -> Result<Vec<Rule>> {
    Ok(vec![])
}
