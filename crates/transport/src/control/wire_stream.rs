//! A QUIC stream pair as the byte stream that gRPC runs over.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::Lifeline;

/// Reads from one half, writes to the other.
pub(crate) struct WireStream {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    lifeline: Lifeline,
}

impl WireStream {
    pub(super) fn new(
        send: quinn::SendStream,
        recv: quinn::RecvStream,
        lifeline: Lifeline,
    ) -> Self {
        Self {
            send,
            recv,
            lifeline,
        }
    }
}

impl Connected for WireStream {
    type ConnectInfo = Lifeline;

    fn connect_info(&self) -> Lifeline {
        self.lifeline.clone()
    }
}

impl AsyncRead for WireStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.recv), context, buffer)
    }
}

impl AsyncWrite for WireStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), context)
    }
}
