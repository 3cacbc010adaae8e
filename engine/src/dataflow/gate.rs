//! The epoch gate: what every stateful operator stands behind.
//!
//! Rows of epoch `e + 1` reach an operator before epoch `e` is complete on every worker. Applied at once they would be
//! judged by the wrong watermark, and a snapshot of `e` would hold effects of `e + 1`. The gate lets rows of the open
//! epoch through at once, holds those of later ones, and closes each epoch exactly once, in order:
//!
//! ```text
//!   push(3, a)  push(4, b)  push(3, c)  advance(frontier 4)      push(4, d)  advance(frontier 6)
//!   apply(a)    held        apply(c)    close(3) apply(b)        apply(d)    close(4) close(5)
//! ```

use std::collections::BTreeMap;

use crate::epoch::Epoch;

/// What stands behind a gate.
pub(crate) trait Gated<R> {
    /// Takes rows of the open epoch.
    fn apply(&mut self, rows: R) -> Result<(), String>;
    /// Ends the open epoch: it is complete on every worker.
    fn close(&mut self, epoch: Epoch) -> Result<(), String>;
}

/// Puts what arrives in the order of epochs.
#[derive(Debug)]
pub(crate) struct EpochGate<R> {
    open: Epoch,
    /// Whether anything of the open epoch has come.
    begun: bool,
    held: BTreeMap<Epoch, Vec<R>>,
}

impl<R> EpochGate<R> {
    /// Makes a gate whose first epoch is open.
    pub(crate) fn new(first: Epoch) -> Self {
        EpochGate { open: first, begun: false, held: BTreeMap::new() }
    }

    /// Passes rows of the open epoch on, and holds those of a later one.
    pub(crate) fn push(&mut self, epoch: Epoch, rows: R, behind: &mut impl Gated<R>) -> Result<(), String> {
        assert!(epoch >= self.open, "rows of epoch {epoch} after it was closed");
        if epoch == self.open {
            self.begun = true;
            return behind.apply(rows);
        }
        self.held.entry(epoch).or_default().push(rows);
        Ok(())
    }

    /// Closes every epoch before the frontier; `None` is the frontier of an input that has ended: then every epoch that
    /// anything has come of is closed.
    pub(crate) fn advance(&mut self, frontier: Option<Epoch>, behind: &mut impl Gated<R>) -> Result<(), String> {
        while frontier.map_or(self.begun || !self.held.is_empty(), |frontier| self.open < frontier) {
            behind.close(self.open)?;
            self.open = self.open.next();
            self.begun = false;
            for rows in self.held.remove(&self.open).unwrap_or_default() {
                self.begun = true;
                behind.apply(rows)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Trace(Vec<String>);

    impl Gated<&'static str> for Trace {
        fn apply(&mut self, rows: &'static str) -> Result<(), String> {
            self.0.push(rows.to_owned());
            Ok(())
        }

        fn close(&mut self, epoch: Epoch) -> Result<(), String> {
            self.0.push(format!("close {epoch}"));
            Ok(())
        }
    }

    #[test]
    fn epochs_close_once_and_in_order_whatever_the_arrival() -> Result<(), String> {
        let (mut gate, mut trace) = (EpochGate::new(Epoch(3)), Trace::default());
        gate.push(Epoch(3), "a", &mut trace)?;
        gate.push(Epoch(5), "late epoch", &mut trace)?;
        gate.push(Epoch(4), "b", &mut trace)?;
        gate.push(Epoch(3), "c", &mut trace)?;
        gate.advance(Some(Epoch(3)), &mut trace)?;
        gate.advance(Some(Epoch(4)), &mut trace)?;
        gate.push(Epoch(4), "d", &mut trace)?;
        gate.advance(Some(Epoch(7)), &mut trace)?;
        assert_eq!(trace.0, ["a", "c", "close 3", "b", "d", "close 4", "late epoch", "close 5", "close 6"]);
        Ok(())
    }

    #[test]
    fn the_end_of_the_input_closes_what_has_begun_and_no_more() -> Result<(), String> {
        let (mut gate, mut trace) = (EpochGate::new(Epoch(1)), Trace::default());
        gate.push(Epoch(1), "a", &mut trace)?;
        gate.push(Epoch(2), "b", &mut trace)?;
        gate.advance(None, &mut trace)?;
        gate.advance(None, &mut trace)?;
        assert_eq!(trace.0, ["a", "close 1", "b", "close 2"]);
        Ok(())
    }
}
