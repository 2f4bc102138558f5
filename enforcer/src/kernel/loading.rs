//! Loads several programs at a time: the kernel verifies each on the processor of the thread that asks, and that is
//! nearly all that starting an endpoint costs.

use std::{
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf,
    programs::{Program, ProgramError},
};

use super::KernelError;

/// Loads these programs. They are begun from the last one on: put what takes long there.
///
/// `target` is where they will be attached, for errors.
///
/// # Errors
/// [`KernelError::Missing`], [`KernelError::Program`].
pub(super) fn load(ebpf: &mut Ebpf, names: &[&'static str], target: &str) -> Result<(), KernelError> {
    if let Some(name) = names.iter().find(|name| ebpf.program(name).is_none()) {
        return Err(KernelError::Missing { what: "program", name: (*name).into() });
    }
    let place = |name: &str| names.iter().position(|wanted| *wanted == name);
    let mut queue: Vec<(usize, &mut Program)> =
        ebpf.programs_mut().filter_map(|(name, program)| Some((place(name)?, program))).collect();
    queue.sort_by_key(|(place, _)| *place);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(names.len());
    let queue = Mutex::new(queue);
    let work = || -> Result<(), KernelError> {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((place, program)) = next else { return Ok(()) };
            load_one(program)
                .map_err(|source| KernelError::program("load", names[place], target.into(), source))?;
        }
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        others.into_iter().fold(own, |result, other| {
            let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.and(other)
        })
    })
}

fn load_one(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}
