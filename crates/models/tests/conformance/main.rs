//! The conformance suite: what every provider must do, run on each of them.
//!
//! A provider joins by a [`Wire`] of the testkit: how its registry type is called, how its servers write answers, streams and errors,
//! and what they were asked. `door` and `forms` are about one protocol or none.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod answers;
mod common;
mod door;
mod errors;
mod forms;
mod limits;
mod streams;
mod tools;

use crewline_testkit::wire::{ChatCompletions, Messages, OllamaChat, Responses};

macro_rules! conformance {
    ($($module:ident $wire:ident)*: $tests:tt) => {
        $(conformance! { @ $module $wire $tests })*
    };
    (@ $module:ident $wire:ident { $($file:ident { $($test:ident)* })* }) => {
        mod $module {
            $($(
                #[tokio::test]
                async fn $test() {
                    crate::$file::$test(&crate::$wire).await;
                }
            )*)*
        }
    };
}

conformance! {
    openai_compatible ChatCompletions openai_responses Responses anthropic Messages ollama OllamaChat:
    {
        answers {
            plain with_schema a_schema_in_words_is_repaired_once ends_have_reasons a_listener_hears_the_pieces vectors
        }
        tools { tools_are_called tools_can_be_demanded }
        streams {
            streamed streamed_connections_are_used_again a_stream_that_breaks_off an_error_inside_a_stream
            usage_that_is_missing usage_of_an_answer_that_is_none usage_that_can_not_be
        }
        errors { errors_have_types refusals rate_limits_say_when }
        limits {
            a_hang_before_the_head a_stall_in_the_body a_reset_in_the_body replies_that_are_too_large replies_that_are_none
            content_types_that_are_wrong nobody_listens a_dropped_call_closes_its_connection concurrency_is_bounded
        }
    }
}
