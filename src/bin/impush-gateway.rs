//! `impush-gateway`: the server half.
#![forbid(unsafe_code)]

/// What one message needs is made by one thread and freed by another; the system's allocator takes a tenth
/// of the processor for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    impush::gateway::cli::main()
}
