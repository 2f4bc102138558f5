//! Giving up root's rights once the sockets are open. The resolver needs none of them.

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, User, setgroups, setresgid, setresuid};

/// What every system gives.
const LEAST_DESCRIPTORS: u64 = 1_024;

/// Becomes `user` for good, or without one stays who we are; in either case nothing can be won back by a program.
pub(super) fn give_up(user: Option<&str>) -> Result<()> {
    let root = Uid::effective().is_root();
    match user {
        Some(user) if root => become_user(user)?,
        Some(user) => bail!("--user {user} needs root: start it as root, or as {user} and without --user"),
        None if root => tracing::info!("this runs as root and need not: --user nobody gives that up"),
        None => {}
    }
    set_no_new_privs().context("cannot give up the gain of rights by programs")
}

fn become_user(name: &str) -> Result<()> {
    let (uid, gid) = find(name)?;
    if uid.is_root() {
        bail!("--user {name} is root itself: name another user, such as nobody");
    }
    // Groups first: they cannot be changed any more once the user has been.
    setgroups(&[gid]).context("cannot give up root's groups")?;
    setresgid(gid, gid, gid).context("cannot change the group")?;
    setresuid(uid, uid, uid).context("cannot change the user")?;
    tracing::info!(%uid, %gid, "gave up root's rights");
    Ok(())
}

fn find(name: &str) -> Result<(Uid, Gid)> {
    if let Some(user) = User::from_name(name).context("cannot read the list of users")? {
        return Ok((user.uid, user.gid));
    }
    let Ok(number) = name.parse() else {
        bail!("there is no user {name}: name one of this system with --user, or a number");
    };
    let known = User::from_uid(Uid::from_raw(number)).context("cannot read the list of users")?;
    Ok(known.map_or((Uid::from_raw(number), Gid::from_raw(number)), |user| (user.uid, user.gid)))
}

/// Each waiting question holds a socket, each cgroup endpoint four: as many as this user may have. Returns how many.
pub(super) fn raise_descriptor_limit() -> u64 {
    let limits = getrlimit(Resource::RLIMIT_NOFILE);
    let raised = limits.and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the number of open files stays as it was");
    }
    getrlimit(Resource::RLIMIT_NOFILE).map_or(LEAST_DESCRIPTORS, |(soft, _)| soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        assert!(find("root").unwrap().0.is_root());
        assert_eq!(find("4123456").unwrap(), (Uid::from_raw(4_123_456), Gid::from_raw(4_123_456)));
        assert!(find("nwt-nobody-has-this").unwrap_err().to_string().contains("--user"));
    }
}
