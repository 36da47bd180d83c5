//! A way between two namespaces: `passage FROM TO` takes connections at one place and passes their bytes to the other, each an address or the
//! path of a Unix socket. Such a socket is a file: it is reached from every network namespace.

use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = &args[..] else { anyhow::bail!("passage FROM TO") };
    if from.starts_with('/') {
        let listener = UnixListener::bind(from)?;
        loop {
            pass(listener.accept().await?.0, to.clone());
        }
    }
    let listener = TcpListener::bind(from).await?;
    loop {
        pass(listener.accept().await?.0, to.clone());
    }
}

fn pass(mut here: impl Stream + 'static, to: String) {
    tokio::spawn(async move {
        // Who cannot be reached looks like one that hangs up; whoever came sees that and tells of it.
        let Ok(mut there) = connect(&to).await else { return };
        let _ = copy_bidirectional(&mut here, &mut there).await;
    });
}

async fn connect(to: &str) -> std::io::Result<Box<dyn Stream>> {
    Ok(if to.starts_with('/') { Box::new(UnixStream::connect(to).await?) } else { Box::new(TcpStream::connect(to).await?) })
}
