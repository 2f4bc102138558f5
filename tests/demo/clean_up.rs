//! Removes what killed tests and demos left behind: `cargo xtask clean-up`.

mod leftovers;

fn main() -> anyhow::Result<()> {
    anyhow::ensure!(nameward_test_support::privileged(), "nothing can be removed, see above");
    leftovers::remove()
}
