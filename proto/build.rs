//! Generates the messages of control plane and pairing. protox reads the `.proto` files, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=control.proto");
    println!("cargo:rerun-if-changed=pairing.proto");
    let files = protox::compile(["control.proto", "pairing.proto"], ["."])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
