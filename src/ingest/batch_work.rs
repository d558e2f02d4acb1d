//! The work of decisions that a shard does for one batch.
//!
//! Half of it is shared evenly by the projects of the batch, so that none finds that another has left it
//! nothing. The other half is for whoever needs more, first come, first served.

use crate::model::ProjectId;

/// The most work of decisions for one batch, however often it is tried; about 25 ms, without what it takes
/// to write down the states that they are made on. Everybody with an event on the shard waits for it. A
/// full batch of usual events is within it.
const BATCH_WORK_MAX: u64 = 2_500_000;

/// What is left of it.
#[derive(Debug, Default)]
pub(super) struct BatchWork {
    /// The shares, sorted by project.
    shares: Vec<(ProjectId, u64)>,
    common: u64,
}

impl BatchWork {
    /// All of it, for a batch of these projects, which may be named more than once.
    pub(super) fn begin(&mut self, projects: impl Iterator<Item = ProjectId>) {
        self.shares.clear();
        self.shares.extend(projects.map(|project| (project, 0)));
        self.shares.sort_unstable();
        self.shares.dedup();
        self.common = BATCH_WORK_MAX / 2;
        let count = u64::try_from(self.shares.len()).unwrap_or(u64::MAX);
        for (_, share) in &mut self.shares {
            *share = (BATCH_WORK_MAX - self.common) / count;
        }
    }

    /// How much a project may still do.
    pub(super) fn left(&self, project: ProjectId) -> u64 {
        let own = self.place(project).and_then(|place| self.shares.get(place));
        self.common + own.map_or(0, |(_, share)| *share)
    }

    /// Takes what a project has done, from its share first.
    pub(super) fn take(&mut self, project: ProjectId, work: u64) {
        let place = self.place(project);
        let own = place.and_then(|place| self.shares.get_mut(place));
        let mut rest = work;
        if let Some((_, share)) = own {
            rest = work.saturating_sub(*share);
            *share = share.saturating_sub(work);
        }
        self.common = self.common.saturating_sub(rest);
    }

    fn place(&self, project: ProjectId) -> Option<usize> {
        let by_project = |(held, _): &(ProjectId, u64)| held.cmp(&project);
        self.shares.binary_search_by(by_project).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ProjectId = ProjectId(1);
    const OTHER: ProjectId = ProjectId(2);

    #[test]
    fn a_project_that_takes_all_it_can_leaves_the_others_their_shares() {
        let mut work = BatchWork::default();
        work.begin([OTHER, ONE, ONE, OTHER].into_iter());
        let quarter = BATCH_WORK_MAX / 4;
        assert_eq!(work.left(ONE), 3 * quarter);
        work.take(ONE, quarter / 2);
        assert_eq!(work.left(OTHER), 3 * quarter, "it was of its own share");
        work.take(ONE, work.left(ONE));
        assert_eq!((work.left(ONE), work.left(OTHER)), (0, quarter));
        work.take(OTHER, 1);
        assert_eq!(work.left(OTHER), quarter - 1);
    }

    #[test]
    fn a_project_alone_has_all_of_it() {
        let mut work = BatchWork::default();
        work.begin([ONE].into_iter());
        assert_eq!(work.left(ONE), BATCH_WORK_MAX);
        work.take(ONE, BATCH_WORK_MAX);
        assert_eq!(work.left(ONE), 0);
        work.begin([ONE].into_iter());
        assert_eq!(work.left(ONE), BATCH_WORK_MAX);
    }
}
