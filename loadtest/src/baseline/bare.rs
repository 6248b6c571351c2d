//! The limit of what a loop of sends over a list of descriptors can do, because this does nothing else. Only who
//! puts several sends into a system call, or several events into a send, can do with less.

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::request::{ACCEPTED, HEAD, Request, frame, read};
use crate::failure::{Failure, Outcome};
use crate::sys;

pub(super) fn serve(listener: &TcpListener) -> Outcome<()> {
    let sockets = Arc::<Mutex<Vec<OwnedFd>>>::default();
    for socket in listener.incoming() {
        let Ok(socket) = socket else { continue };
        // One thread reads all heads in turn: a client that stalls here stalls everybody, which is the
        // price of doing nothing else.
        let _ = greet(socket, &sockets);
    }
    Err(Failure::new("the listener ended"))
}

fn greet(mut socket: TcpStream, sockets: &Arc<Mutex<Vec<OwnedFd>>>) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut reader = BufReader::new(socket.try_clone()?);
    match read(&mut reader)? {
        None => {}
        Some(Request::Subscribe) => {
            socket.write_all(HEAD)?;
            sockets.lock().unwrap_or_else(PoisonError::into_inner).push(socket.into());
        }
        Some(Request::Publish(body)) => {
            let sockets = sockets.clone();
            std::thread::spawn(move || {
                let mut body = Some(body);
                while let Some(data) = body.take() {
                    send(&frame(&data), &sockets);
                    if socket.write_all(ACCEPTED).is_err() {
                        return;
                    }
                    if let Ok(Some(Request::Publish(next))) = read(&mut reader) {
                        body = Some(next);
                    }
                }
            });
        }
    }
    Ok(())
}

fn send(frame: &[u8], sockets: &Mutex<Vec<OwnedFd>>) {
    let mut sockets = sockets.lock().unwrap_or_else(PoisonError::into_inner);
    sockets.retain(|socket| matches!(sys::send(socket.as_raw_fd(), frame), Ok(sent) if sent == frame.len()));
}
