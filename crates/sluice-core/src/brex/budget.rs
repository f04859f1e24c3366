//! What the expressions of one packet may cost.

/// Operations that all expressions of one packet may take.
pub const STEP_LIMIT: u32 = 10_000;
/// Bytes that all expressions of one packet may compare and give.
pub const BYTE_LIMIT: usize = 65_536;

/// What is left of the steps and bytes that one packet may cost.
#[derive(Clone, Debug)]
pub struct Budget {
    steps: u32,
    bytes: usize,
    exceeded: bool,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { steps: STEP_LIMIT, bytes: BYTE_LIMIT, exceeded: false }
    }
}

impl Budget {
    /// Whether something was null because the budget was used up.
    pub fn exceeded(&self) -> bool {
        self.exceeded
    }

    pub(super) fn step(&mut self) -> bool {
        self.exceeded |= self.steps == 0;
        self.steps = self.steps.saturating_sub(1);
        !self.exceeded
    }

    pub(super) fn take(&mut self, bytes: usize) -> bool {
        self.exceeded |= self.bytes < bytes;
        self.bytes = self.bytes.saturating_sub(bytes);
        !self.exceeded
    }
}
