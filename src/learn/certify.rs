//! The only place where a head becomes fit to serve.
//!
//! Method: fixed-sequence testing (Bauer 1991; "Learn then Test", Angelopoulos et al., arXiv 2110.01052) along the one
//! path of thresholds, from safe to bold, with exact binomial tails. Every look at more data is a test of its own, so each
//! gets its share of delta. The audits that are looked at must not have trained the heads: [`crate::learn::Learner`] sees
//! to it, by log position and by frame.

use std::sync::Arc;

use statrs::distribution::{Binomial, DiscreteCDF};

use crate::heads::set::SetExit;
use crate::heads::{Certificate, Confidence, Head, Reference, Threshold};
use crate::learn::select::{self, Row};

/// Looks at growing data that one version gets: an early one for the first certificate and the main one at twice its
/// audits. Their shares of delta sum to 1. A third look would have to double the audits again to allow more than the main
/// one does.
pub(crate) const LOOK_SHARES: [f64; 2] = [0.1, 0.9];

/// A head that was trained and promises nothing yet.
#[derive(Debug, Clone)]
pub struct CandidateHead(Arc<Head>);

impl CandidateHead {
    /// Any head may be a candidate.
    #[must_use]
    pub fn new(head: Head) -> Self {
        Self(Arc::new(head))
    }

    /// The head.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.0
    }
}

/// A head that is part of a path which passed certification. Only this module makes one; only it can be published.
#[derive(Debug, Clone)]
pub struct CertifiedHead {
    head: Arc<Head>,
    threshold: Threshold,
}

impl CertifiedHead {
    /// The head.
    #[must_use]
    pub fn head(&self) -> &Arc<Head> {
        &self.head
    }

    /// The confidence from which frames leave.
    #[must_use]
    pub fn threshold(&self) -> Threshold {
        self.threshold
    }

    /// The same numbers under the sequence number of the publication that carries them first.
    pub(crate) fn numbered(&self, sequence: u64) -> Self {
        Self { head: Arc::new(self.head.with_sequence(sequence)), threshold: self.threshold }
    }

    pub(crate) fn to_exit(&self) -> SetExit {
        SetExit { head: Arc::clone(&self.head), threshold: self.threshold }
    }
}

/// A certified path: heads with one threshold, and what it promises.
#[derive(Debug, Clone)]
pub struct CertifiedPath {
    /// Heads by depth.
    pub heads: Vec<CertifiedHead>,
    /// The common threshold.
    pub threshold: Threshold,
    /// The promise.
    pub certificate: Certificate,
    /// The first exit's confidences on the certifying audits.
    pub reference: Option<Reference>,
}

/// What to promise, and with how much of delta at this look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Promise {
    pub(crate) epsilon: f64,
    pub(crate) delta: f64,
    /// This look's part of delta.
    pub(crate) look_delta: f64,
}

/// Probability of at most `k` disagreements in `n` audits if the disagreement is `p`.
pub(crate) fn lower_tail(n: u64, k: u64, p: f64) -> f64 {
    Binomial::new(p, n).map_or(1.0, |binomial| binomial.cdf(k))
}

/// The largest disagreement that `k` in `n` does not refute at level `delta` (Clopper and Pearson 1934), one-sided.
pub(crate) fn upper_bound(n: u64, k: u64, delta: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    let (mut low, mut high) = (k as f64 / n as f64, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if lower_tail(n, k, middle) > delta { low = middle } else { high = middle }
    }
    high
}

/// Audits without a disagreement that one look at level `delta` needs at least.
pub(crate) fn least_audits(epsilon: f64, delta: f64) -> usize {
    let audits = (delta.ln() / (1.0 - epsilon).ln()).ceil();
    if audits.is_finite() && audits >= 1.0 { audits as usize } else { usize::MAX }
}

/// The boldest threshold of the path that these rows establish, with the disagreements there; `None`: not even the first.
pub(crate) fn boldest(rows: &[Row], subset: u8, promise: Promise) -> Option<(f32, u64)> {
    let n = rows.len() as u64;
    // An empty subset promises nothing that is worth anything.
    if subset == 0 || rows.len() < least_audits(promise.epsilon, promise.look_delta) {
        return None;
    }
    let mut passed = None;
    for point in select::path() {
        let k = rows.iter().filter(|row| row.errs(subset, point)).count() as u64;
        if lower_tail(n, k, promise.epsilon) > promise.look_delta {
            // Fixed sequence: the first failure ends it, and the answer is the last point that passed.
            break;
        }
        passed = Some((point, k));
    }
    passed
}

/// One look: certifies the candidates of `subset` (bit k: candidate with index k, a head each in `heads`) on these rows.
pub(crate) fn certify(heads: &[CandidateHead], rows: &[Row], subset: u8, promise: Promise) -> Option<CertifiedPath> {
    let (point, disagreements) = boldest(rows, subset, promise)?;
    let threshold = Threshold::new(point)?;
    let on = |candidate: &&CandidateHead| subset >> candidate.0.exit().index() & 1 == 1;
    let certified = |candidate: &CandidateHead| CertifiedHead { head: Arc::clone(&candidate.0), threshold };
    let first = subset.trailing_zeros() as usize;
    let confidences: Vec<Confidence> = rows.iter().map(|row| Confidence::new(row.confidences[first & 7])).collect();
    let n = rows.len() as u64;
    Some(CertifiedPath {
        heads: heads.iter().filter(on).map(certified).collect(),
        threshold,
        certificate: Certificate {
            epsilon: promise.epsilon,
            delta: promise.delta,
            n,
            disagreements,
            bound: upper_bound(n, disagreements, promise.look_delta).min(promise.epsilon),
        },
        reference: Reference::of(&confidences),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Disagreements allowed at 1 %, 95 %, for n = 1,000 / 2,000 / 5,000.
    #[test]
    fn allowed_disagreements_are_the_published_ones() {
        let allowed =
            |n: u64, looks: f64| (0..n).take_while(|k| lower_tail(n, *k, 0.01) <= 0.05 / looks).count() as i64 - 1;
        assert_eq!([1000, 2000, 5000].map(|n| allowed(n, 1.0)), [4, 12, 38]);
        assert_eq!([1000, 2000, 5000].map(|n| allowed(n, 4.0)), [3, 10, 34]);
        assert_eq!([1000, 2000, 5000].map(|n| allowed(n, 8.0)), [2, 9, 32]);
        assert_eq!((least_audits(0.01, 0.05), least_audits(0.01, 0.0125)), (299, 437));
    }

    #[test]
    fn the_last_point_that_passed_is_published() {
        let promise = Promise { epsilon: 0.01, delta: 0.05, look_delta: 0.05 };
        let mut rows = vec![Row { confidences: [0.9; 8], agrees: 1 }; 298];
        assert_eq!(boldest(&rows, 1, promise), None);
        rows.push(Row { confidences: [0.7; 8], agrees: 0 });
        let (point, k) = boldest(&rows, 1, promise).expect("299 audits, none wrong above 0.7");
        let next = select::path().find(|next| *next < point).expect("not the last");
        assert!(k == 0 && point > 0.7 && next <= 0.7);
    }
}
