//! `nameward-resolver`: see [`nameward_resolver::wiring`].

use std::process::ExitCode;

/// Names, answers and grants are many small allocations that live for a while, on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nameward_resolver::wiring::main()
}
