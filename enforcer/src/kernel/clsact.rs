//! Programs at interfaces of kernels without TCX (before 6.6): filters of the `clsact` qdisc, at a place of ours.
//!
//! A filter lives as long as its interface, without a link. What stands for it in the endpoint's folder is a pin of
//! its program, by which the next process knows it and sees whether it is still there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
};

use super::KernelError;

/// The first there is.
const PRIORITY: u16 = 1;
/// `nw`; whoever attaches there too is replaced.
const HANDLE: TcHandle = TcHandle::new(0, 0x6e77);

/// Where the program of a filter is pinned.
fn pin_path(pins: &Path, program: &str) -> PathBuf {
    pins.join(format!("filter_{program}"))
}

/// Puts a loaded program in the place of the filter that is there, or makes one.
pub(super) fn attach(
    classifier: &mut SchedClassifier,
    program: &str,
    interface: &str,
    hook: TcAttachType,
    pins: &Path,
) -> Result<(), KernelError> {
    let failed = |operation| error(operation, program, interface);
    if !replace(classifier, interface, hook).map_err(failed("replace"))? {
        make(classifier, interface, hook).map_err(failed("attach"))?;
    }
    let pin = pin_path(pins, program);
    let fresh = pins.join(format!("filter_{program}~new"));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(KernelError::file("remove", &fresh, error));
        }
        _ => {}
    }
    classifier.pin(&fresh).map_err(|source| KernelError::Link {
        operation: "pin",
        path: fresh.clone(),
        source: source.into(),
    })?;
    fs::rename(&fresh, &pin).map_err(|error| KernelError::file("replace", pin, error))
}

/// Whether the programs whose pins are in a folder are attached to an interface. They are the first there if so.
pub(super) fn are_attached(
    hooks: &[(&str, TcAttachType)],
    interface: &str,
    pins: &Path,
) -> Result<bool, KernelError> {
    for (program, hook) in hooks {
        let pin = pin_path(pins, program);
        if !pin.exists() {
            return Ok(false);
        }
        let mut classifier = SchedClassifier::from_pin(&pin).map_err(error("open", program, interface))?;
        // The kernel says whether there is one when it is replaced by itself.
        if !replace(&mut classifier, interface, *hook).map_err(error("replace", program, interface))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes the filters whose programs are pinned in a folder, and the pins. What is gone already is gone.
pub(super) fn remove(
    hooks: &[(&str, TcAttachType)],
    interface: Option<&str>,
    pins: &Path,
) -> Result<(), KernelError> {
    for (program, hook) in hooks {
        let pin = pin_path(pins, program);
        if !pin.exists() {
            continue;
        }
        if let Some(interface) = interface
            && let Ok(link) = SchedClassifierLink::attached(interface, *hook, PRIORITY, HANDLE, None)
        {
            use aya::programs::links::Link;
            match link.detach() {
                Err(source) if !is_absent(&source) => {
                    return Err(error("remove", program, interface)(source));
                }
                _ => {}
            }
        }
        fs::remove_file(&pin).map_err(|error| KernelError::file("remove", pin, error))?;
    }
    Ok(())
}

/// Whether a folder has pins of filters.
pub(super) fn has_pins(hooks: &[(&str, TcAttachType)], pins: &Path) -> bool {
    hooks.iter().any(|(program, _)| pin_path(pins, program).exists())
}

/// False when there is nothing to replace.
fn replace(
    classifier: &mut SchedClassifier,
    interface: &str,
    hook: TcAttachType,
) -> Result<bool, ProgramError> {
    let filter =
        SchedClassifierLink::attached(interface, hook, PRIORITY, HANDLE, None).map_err(TcError::IoError)?;
    match classifier.attach_to_link(filter) {
        Ok(id) => {
            // It would be removed with what stands for it here.
            std::mem::forget(classifier.take_link(id)?);
            Ok(true)
        }
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn make(classifier: &mut SchedClassifier, interface: &str, hook: TcAttachType) -> Result<(), ProgramError> {
    match qdisc_add_clsact(interface) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        other => other?,
    }
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let id = classifier.attach_with_options(interface, hook, TcAttachOptions::Netlink(options))?;
    std::mem::forget(classifier.take_link(id)?);
    Ok(())
}

/// No filter, no qdisc, no interface.
fn is_absent(error: &ProgramError) -> bool {
    let code = match error {
        ProgramError::TcError(TcError::NetlinkError(error)) | ProgramError::NetlinkError(error) => {
            error.raw_os_error()
        }
        _ => None,
    };
    matches!(code, Some(libc::ENOENT | libc::EINVAL | libc::ENODEV))
}

fn error(operation: &'static str, program: &str, interface: &str) -> impl Fn(ProgramError) -> KernelError {
    move |source| KernelError::program(operation, program, format!("at interface {interface}"), source)
}
