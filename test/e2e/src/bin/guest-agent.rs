//! What a test on the host does things in a guest through: runs scripts, and passes connections on to the
//! CSI driver's socket.
//!
//! `guest-agent SCRIPTS CSI SOCKET` listens at two TCP ports. At SCRIPTS a connection sends the number of
//! a script's bytes, a line feed, and the script; it gets what the script printed, and `EXIT CODE`. One of
//! no bytes ends the agent.

use anyhow::{Context, Result};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scripts, csi, socket] = arguments.as_slice() else {
        anyhow::bail!("usage: guest-agent SCRIPTS CSI SOCKET");
    };
    let scripts = TcpListener::bind(("0.0.0.0", scripts.parse()?))?;
    let csi = TcpListener::bind(("0.0.0.0", csi.parse()?))?;
    let socket = socket.clone();
    thread::spawn(move || {
        for stream in csi.incoming().flatten() {
            if let Err(error) = pass_on(&stream, &socket) {
                eprintln!("{socket}: {error}");
            }
        }
    });
    let (ended, end) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in scripts.incoming().flatten() {
            let ended = ended.clone();
            thread::spawn(move || {
                if matches!(serve(stream), Ok(false)) {
                    let _ = ended.send(());
                }
            });
        }
    });
    end.recv().context("nobody listens for scripts")
}

/// Runs what a connection sends; gives whether there was anything.
fn serve(stream: TcpStream) -> Result<bool> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = String::new();
    reader.read_line(&mut length)?;
    let mut script = vec![0; length.trim().parse()?];
    reader.read_exact(&mut script)?;
    let mut stream = stream;
    if script.is_empty() {
        return Ok(false);
    }
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(format!("exec 2>&1\n{}", String::from_utf8(script)?))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut output)?;
    }
    let code = child.wait()?.code().unwrap_or(-1);
    stream.write_all(&output)?;
    writeln!(stream, "EXIT {code}")?;
    stream.shutdown(Shutdown::Both)?;
    Ok(true)
}

fn pass_on(outside: &TcpStream, socket: &str) -> io::Result<()> {
    let inside = UnixStream::connect(socket)?;
    outside.set_nodelay(true)?;
    let (mut from, mut to) = (outside.try_clone()?, inside.try_clone()?);
    let (mut back_from, mut back_to) = (inside, outside.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    thread::spawn(move || {
        let _ = io::copy(&mut back_from, &mut back_to);
        let _ = back_to.shutdown(Shutdown::Both);
    });
    Ok(())
}
