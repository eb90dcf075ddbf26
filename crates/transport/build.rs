//! Generates the gRPC service over the messages that `proto` has generated already.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto/control.proto");
    let files = protox::compile(["control.proto"], ["../../proto"])?;
    tonic_prost_build::configure()
        .extern_path(".hearth.control.v1", "::proto::control::wire")
        .compile_fds(files)?;
    Ok(())
}
