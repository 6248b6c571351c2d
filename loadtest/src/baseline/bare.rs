//! The limit of what a loop of sends over a list of descriptors can do, because this does nothing else. Only
//! who puts several sends into a system call, or several events into a send, can do with less.
//!
//! More streams than one descriptor table holds need several tables: each has a listener, a list and a
//! sending thread of its own.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::request::{ACCEPTED, HEAD, Request, frame, read};
use crate::failure::{Failure, Outcome};
use crate::sys;

/// What is to be sent to everybody in a table; the second part is dropped when it is sent.
type Job = (Arc<Vec<u8>>, Sender<()>);
type Sockets = Arc<Mutex<Vec<OwnedFd>>>;

/// Serves with so many tables. With one, the process's own is used.
pub(super) fn serve(listener: TcpListener, tables: usize) -> Outcome<()> {
    let failed = |error: io::Error| Failure::new(format!("bare: {error}"));
    let address = match listener.local_addr().map_err(failed)? {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => return Err(Failure::new(format!("bare: {address} is no IPv4 address"))),
    };
    let mut listeners = vec![listener];
    for _ in 1..tables {
        listeners.push(sys::listen(address, true).map_err(failed)?);
    }
    let (jobs, mine): (Vec<_>, Vec<_>) = listeners.iter().map(|_| channel()).unzip();
    let jobs = Arc::new(jobs);
    let (over, why) = channel();
    for (listener, mine) in listeners.into_iter().zip(mine) {
        let (jobs, over) = (jobs.clone(), over.clone());
        thread::spawn(move || {
            let result = table(&listener, mine, &jobs);
            let _ = over.send(result);
        });
    }
    match why.recv() {
        Ok(Err(error)) => Err(failed(error)),
        _ => Err(Failure::new("the listener ended")),
    }
}

fn table(listener: &TcpListener, mine: Receiver<Job>, jobs: &Arc<Vec<Sender<Job>>>) -> io::Result<()> {
    if jobs.len() > 1 {
        sys::private_descriptor_table()?;
    }
    let sockets = Sockets::default();
    let list = sockets.clone();
    // It begins in the table of the thread that starts it.
    thread::spawn(move || {
        for (frame, _sent) in mine {
            send(&frame, &list);
        }
    });
    for socket in listener.incoming() {
        let Ok(socket) = socket else { continue };
        // One thread reads all heads in turn: a client that stalls here stalls everybody, which is the
        // price of doing nothing else.
        let _ = greet(socket, &sockets, jobs);
    }
    Ok(())
}

fn greet(mut socket: TcpStream, sockets: &Sockets, jobs: &Arc<Vec<Sender<Job>>>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut reader = BufReader::new(socket.try_clone()?);
    match read(&mut reader)? {
        None => {}
        Some(Request::Subscribe) => {
            socket.write_all(HEAD)?;
            sockets.lock().unwrap_or_else(PoisonError::into_inner).push(socket.into());
        }
        Some(Request::Publish(body)) => {
            let jobs = jobs.clone();
            thread::spawn(move || {
                let mut body = Some(body);
                while let Some(data) = body.take() {
                    publish(&data, &jobs);
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

/// Returns when every table has sent it.
fn publish(data: &[u8], jobs: &[Sender<Job>]) {
    let frame = Arc::new(frame(data));
    let (sent, all_sent) = channel();
    for table in jobs {
        let _ = table.send((frame.clone(), sent.clone()));
    }
    drop(sent);
    // Ends with an error when the last sender is dropped: nothing is sent here.
    let _ = all_sent.recv();
}

fn send(frame: &[u8], sockets: &Mutex<Vec<OwnedFd>>) {
    let mut sockets = sockets.lock().unwrap_or_else(PoisonError::into_inner);
    sockets.retain(|socket| matches!(sys::send(socket.as_raw_fd(), frame), Ok(sent) if sent == frame.len()));
}
