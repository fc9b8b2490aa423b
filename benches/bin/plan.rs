//! See `ft_bench::plan`.

fn main() -> std::process::ExitCode {
    ft_bench::plan::main()
}
