//! Loads several programs at a time: the kernel verifies each on the processor of the thread that asks, and that is
//! nearly all that starting an endpoint costs.

use std::{
    sync::{Mutex, PoisonError},
    thread::{self, ScopedJoinHandle},
};

use aya::{
    Ebpf,
    programs::{Program, ProgramError},
};

use super::KernelError;

/// A program of an object, by its name there.
pub(super) type Named<'a> = (&'static str, &'a mut Program);

/// Programs of an object, in the order of their names here.
///
/// # Errors
/// [`KernelError::Missing`].
pub(super) fn select<'a>(ebpf: &'a mut Ebpf, names: &[&'static str]) -> Result<Vec<Named<'a>>, KernelError> {
    if let Some(name) = names.iter().find(|name| ebpf.program(name).is_none()) {
        return Err(KernelError::Missing { what: "program", name: (*name).into() });
    }
    let place = |name: &str| names.iter().position(|wanted| *wanted == name);
    let mut found: Vec<(usize, &mut Program)> =
        ebpf.programs_mut().filter_map(|(name, program)| Some((place(name)?, program))).collect();
    found.sort_by_key(|(place, _)| *place);
    Ok(found.into_iter().map(|(place, program)| (names[place], program)).collect())
}

/// Loads programs. They are begun from the last one on: put what takes long there.
///
/// `target` is where they will be attached, for errors.
///
/// # Errors
/// [`KernelError::Program`].
pub(super) fn load(programs: &mut [Named<'_>], target: &str) -> Result<(), KernelError> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(programs.len());
    let queue = Mutex::new(programs.iter_mut().collect::<Vec<_>>());
    let work = || -> Result<(), KernelError> {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((name, program)) = next else { return Ok(()) };
            load_one(program).map_err(|source| KernelError::program("load", name, target.into(), source))?;
        }
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        others.into_iter().fold(own, |result, other| result.and(joined(other)))
    })
}

/// What a thread returns; its panic is ours.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
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
