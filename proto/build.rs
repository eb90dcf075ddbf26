//! Generates the control-plane messages. protox reads the `.proto` file, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=control.proto");
    let files = protox::compile(["control.proto"], ["."])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
