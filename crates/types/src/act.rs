//! What specialists do beside answering: calls of tools, and what a person is asked.

words!(
    /// What a tool does to the world.
    Effect {
        /// Looks only.
        Read = "read",
        /// Changes something, and the same again when it is done twice.
        Repeatable = "repeatable",
        /// Done twice is worse than once.
        Unsafe = "unsafe",
    }
);

words!(
    /// How a call of a tool ended.
    ToolOutcome {
        /// Done.
        Ok = "ok",
        /// The tool says that it did not work.
        Failed = "failed",
        /// A rule or a person did not allow it.
        Refused = "refused",
        /// No such tool, or not its arguments.
        Invalid = "invalid",
        /// A limit on time passed.
        Timeout = "timeout",
        /// Nobody knows whether it was done, and a person said that it is not to be done again.
        Unknown = "unknown",
    }
);

words!(
    /// What a person is asked.
    ApprovalKind {
        /// Whether a plan is to be run.
        Plan = "plan",
        /// Whether a task is to be given this context.
        Context = "context",
        /// Whether a call of a tool is to be made.
        Tool = "tool",
        /// Whether a call of which nobody knows if it was made is to be made again.
        Again = "again",
        /// A specialist's question.
        Question = "question",
    }
);

words!(
    /// What a person said.
    ApprovalState {
        /// Nothing yet.
        Pending = "pending",
        /// Yes, or an answer to the question.
        Approved = "approved",
        /// No.
        Rejected = "rejected",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for outcome in ToolOutcome::ALL {
            assert_eq!(ToolOutcome::parse(outcome.as_str()), Some(*outcome));
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
        assert_eq!(ApprovalKind::parse("yes"), None);
    }
}
