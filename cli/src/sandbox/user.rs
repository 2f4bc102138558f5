//! Whom the command runs as: the user who called sudo, or the one that `--user` names (SEMANTICS X2).
//!
//! Gives numeric credentials and the variables that go with them. Does not change the credentials of anybody;
//! that is [`super::privileges`].

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::{Gid, Uid, User, getgrouplist};

/// User, group and supplementary groups of the command.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    /// User.
    pub(crate) uid: Uid,
    /// Group.
    pub(crate) gid: Gid,
    /// Supplementary groups.
    pub(crate) groups: Vec<Gid>,
    /// Entry in the user database, when there is one.
    account: Option<(String, PathBuf)>,
}

impl Credentials {
    /// Finds out whom to run as. `wanted` is the value of `--user`; without it the caller of sudo, and without
    /// sudo the user who runs `nameward`.
    pub(crate) fn find(wanted: Option<&str>) -> Result<Self> {
        match wanted {
            Some(text) => Self::named(text),
            None => match sudo_caller()? {
                Some((uid, gid)) => Self::numeric(uid, Some(gid)),
                None => Self::numeric(Uid::current(), Some(Gid::current())),
            },
        }
    }

    fn named(text: &str) -> Result<Self> {
        let user = User::from_name(text).context("cannot read the user database")?;
        match (user, text.parse::<u32>()) {
            (Some(user), _) => Self::of(&user, user.gid),
            // The highest number means "unchanged" to the kernel (setresuid(2)), and nobody.
            (None, Ok(uid)) if uid != u32::MAX => Self::numeric(Uid::from_raw(uid), None),
            (None, _) => {
                bail!("--user {text}: there is no such user; give a name or a number of `getent passwd`")
            }
        }
    }

    fn numeric(uid: Uid, gid: Option<Gid>) -> Result<Self> {
        match User::from_uid(uid).context("cannot read the user database")? {
            Some(user) => Self::of(&user, gid.unwrap_or(user.gid)),
            None => {
                let gid = gid.unwrap_or(Gid::from_raw(uid.as_raw()));
                Ok(Self { uid, gid, groups: vec![gid], account: None })
            }
        }
    }

    fn of(user: &User, gid: Gid) -> Result<Self> {
        let name = CString::new(user.name.as_bytes())?;
        let groups =
            getgrouplist(&name, gid).with_context(|| format!("cannot read the groups of {}", user.name))?;
        Ok(Self { uid: user.uid, gid, groups, account: Some((user.name.clone(), user.dir.clone())) })
    }

    /// Home directory: that of the user database, else `/`.
    pub(crate) fn home(&self) -> PathBuf {
        self.account.as_ref().map_or_else(|| PathBuf::from("/"), |(_, home)| home.clone())
    }

    /// The caller's environment; `HOME`, `USER` and `LOGNAME` follow a change of user.
    pub(crate) fn environment(&self) -> Vec<CString> {
        let mut variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        if self.uid != Uid::current()
            && let Some((name, home)) = &self.account
        {
            variables.retain(|(key, _)| !matches!(key.to_str(), Some("HOME" | "USER" | "LOGNAME")));
            variables.push(("HOME".into(), home.into()));
            variables.push(("USER".into(), name.into()));
            variables.push(("LOGNAME".into(), name.into()));
        }
        variables
            .iter()
            .filter_map(|(key, value)| CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()).ok())
            .collect()
    }
}

/// `SUDO_UID` and `SUDO_GID`, when sudo (run by root for somebody) set them.
fn sudo_caller() -> Result<Option<(Uid, Gid)>> {
    let read = |key: &str| -> Result<Option<u32>> {
        std::env::var(key)
            .ok()
            .map(|text| {
                text.parse().map_err(|_| anyhow!("{key} is {text:?}, not a number; unset it or use --user"))
            })
            .transpose()
    };
    match (read("SUDO_UID")?, read("SUDO_GID")?) {
        (Some(uid), Some(gid)) => Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid)))),
        (Some(_), None) => bail!("SUDO_UID is set without SUDO_GID; set both or use --user"),
        (None, _) => Ok(None),
    }
}
