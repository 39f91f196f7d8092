//! Compiles the specification's protocol, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/csi.proto");
    let files = protox::compile(["csi.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        // They hold indented text, which would be taken for examples to run.
        .disable_comments(["."])
        .compile_fds(files)?;
    Ok(())
}
