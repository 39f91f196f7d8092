//! A client of the Container Storage Interface, from the driver's copy of the specification.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../csi/proto/csi.proto");
    let files = protox::compile(["csi.proto"], ["../../csi/proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .disable_comments(["."])
        .compile_fds(files)?;
    Ok(())
}
