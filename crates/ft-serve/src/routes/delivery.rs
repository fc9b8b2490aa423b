//! How an answer goes out, whatever its form: in one piece, or as the end of a stream.

use std::io;

use serde_json::Value;

use crate::answering::Broken;
use crate::error::ApiError;
use crate::http::{Reply, Response};

/// The request went out with an answer, or there was nobody to take it.
pub fn sent(_: io::Result<()>) -> Result<(), ApiError> {
    Ok(())
}

/// Sends what was made of all answers, once they are whole.
pub fn send_whole(
    followed: Result<(), Broken>,
    object: impl FnOnce() -> Value,
    reply: &mut Reply,
) -> Result<(), ApiError> {
    match followed {
        Err(Broken::Gone) => Ok(()),
        Err(Broken::Failed(error)) => Err(error),
        Ok(()) => sent(reply.send(Response::json(200, &object()))),
    }
}

/// Ends a stream: with what was used, or with what went wrong. Either way the client knows that nothing follows.
pub fn finish_stream(followed: Result<(), Broken>, last: Option<String>, reply: &mut Reply) -> Result<(), ApiError> {
    match followed {
        Err(Broken::Gone) => Ok(()),
        Err(Broken::Failed(error)) => {
            let told = reply.event(&error.body().to_string());
            sent(told.and_then(|()| reply.end_events()))
        }
        Ok(()) => {
            let told = last.map_or(Ok(()), |last| reply.event(&last));
            sent(
                told.and_then(|()| reply.event("[DONE]"))
                    .and_then(|()| reply.end_events()),
            )
        }
    }
}
