//! The closed sets of values that labels take. A label with open values (a camera's name, say) would be a leak.

/// How a frame was finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered by an exit.
    Exit,
    /// Answered by the whole model.
    Full,
    /// Rejected; its bytes went to the dead letters.
    DeadLetter,
}

/// A stage whose time is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A batch's bytes to pixels.
    Decode,
    /// A batch through segments and exits, until its last row has left.
    Serve,
    /// A batch of audited frames on the whole model.
    Audit,
    /// An answer from hand-over to acknowledgement.
    Publish,
}

/// A queue whose depth is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Frames that wait for a lane.
    Lanes,
    /// Answers that Kafka has not acknowledged.
    Answers,
    /// Samples that Kafka has not acknowledged.
    Samples,
}

/// What became of a sample that was fit to learn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleOutcome {
    /// Handed to Kafka.
    Sent,
    /// The queue was full.
    Dropped,
}

/// Why a record of the frames topic has no answer and no dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Its batch is broken.
    Unreadable,
}

/// A change of the assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebalance {
    /// Partitions were added.
    Assign,
    /// Partitions were taken away.
    Revoke,
    /// The group failed to agree.
    Error,
}

macro_rules! words {
    ($($enum:ident { $($variant:ident = $word:literal),* })*) => {
        $(impl $enum {
            /// Every value, in the order of the discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// The label's value.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        })*
    };
}

words! {
    Outcome { Exit = "exit", Full = "full", DeadLetter = "dead_letter" }
    Stage { Decode = "decode", Serve = "serve", Audit = "audit", Publish = "publish" }
    Queue { Lanes = "lanes", Answers = "answers", Samples = "samples" }
    SampleOutcome { Sent = "sent", Dropped = "dropped" }
    Loss { Unreadable = "unreadable" }
    Rebalance { Assign = "assign", Revoke = "revoke", Error = "error" }
}
