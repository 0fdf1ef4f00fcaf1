//! Smooth weighted turns: in as many turns as the weights sum up to, each member comes as often as its weight, and not all at once.

/// The state of the turns.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Weight, and what a member is owed: it grows by the weight each turn and shrinks by the sum when the member is chosen.
    members: Vec<(u32, i64)>,
    sum: i64,
}

impl Turns {
    pub(crate) fn new(weights: impl Iterator<Item = u32>) -> Self {
        let members: Vec<_> = weights.map(|weight| (weight, 0)).collect();
        let sum = members.iter().map(|(weight, _)| i64::from(*weight)).sum();
        Self { members, sum }
    }

    pub(crate) fn weights(&self) -> impl Iterator<Item = u32> + '_ {
        self.members.iter().map(|(weight, _)| *weight)
    }

    /// Whose turn it is; nobody's when all weights are 0.
    pub(crate) fn next(&mut self) -> Option<u32> {
        let mut first: Option<(u32, i64)> = None;
        for (index, (weight, owed)) in (0..).zip(&mut self.members) {
            *owed += i64::from(*weight);
            if *weight > 0 && first.is_none_or(|(_, most)| *owed > most) {
                first = Some((index, *owed));
            }
        }
        let (index, _) = first?;
        if let Some((_, owed)) = self.members.get_mut(index as usize) {
            *owed -= self.sum;
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::Turns;

    #[test]
    fn turns_are_evenly_spread() {
        let mut turns = Turns::new([5, 1, 0, 1].into_iter());
        let round: Vec<_> = (0..7).filter_map(|_| turns.next()).collect();
        assert_eq!(round, [0, 0, 1, 0, 3, 0, 0]);
        let again: Vec<_> = (0..7).filter_map(|_| turns.next()).collect();
        assert_eq!(again, round);
    }

    #[test]
    fn nobody_is_owed_anything_without_weights() {
        assert_eq!(Turns::new([0, 0].into_iter()).next(), None);
        assert_eq!(Turns::new([].into_iter()).next(), None);
    }
}
