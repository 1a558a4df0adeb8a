//! What is measured of a backbone on this machine: what its parts cost, and what follows from that.
//!
//! | file | what it knows |
//! |---|---|
//! | `timer` | what time is taken with |
//! | `effort` | how long is measured |
//! | `timing` | rounds of measuring, and their medians |
//! | `pass` | a batch that is run through a chain |
//! | `parts` | what segments and the whole model cost |
//! | `batch_size` | how many rows a segment runs at a time, and the costs that heads are chosen by |
//! | `measured` | all of it, to be kept from one start to the next |
//! | `compare` | which way to cut is right, and how fast it is |
//! | `lanes_or_threads` | whether cores serve better as lanes or as threads of one lane |

pub(crate) mod batch_size;
pub(crate) mod compare;
mod effort;
pub(crate) mod lanes_or_threads;
pub(crate) mod measured;
mod parts;
mod pass;
pub(crate) mod timer;
pub(crate) mod timing;
