//! The command-line client: flags in, one result out, an exit code that scripts can rely on.

mod cli;

fn main() {
    std::process::exit(cli::run() as i32);
}
