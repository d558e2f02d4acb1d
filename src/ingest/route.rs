//! Which shard each item of a request goes to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::decode::Item;
use crate::error::Error;
use crate::model::{Call, Event, Identity, IdentityKind, MessageId, ProjectId};
use crate::targeting::Targeting;
use crate::targeting::people::Remembered;

/// How large the traits of a remembered person may be whose state waits in the queue with the event,
/// in bytes; it may hold on to what the cache has let go.
const HELD_TRAITS_BYTES_MAX: usize = 8 << 10;

/// The items of one shard, each with its place in the request.
pub(super) type Part = (usize, Vec<(usize, Item)>);

/// A request, split.
#[derive(Debug)]
pub(super) struct Split {
    /// What each shard gets.
    pub(super) parts: Vec<Part>,
    pub(super) known: Known,
    /// Whom the one event of most requests is about, if they are remembered and do not have much.
    pub(super) remembered: Option<Remembered>,
}

/// Which of a request's identities somebody has.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// Nobody has looked.
    Unasked,
    All,
    AllBut(Arc<HashSet<Identity>>),
}

impl Known {
    /// What is known of one of them.
    pub(super) fn owner(&self, identity: &Identity) -> Owner {
        match self {
            Known::Unasked => Owner::Unasked,
            Known::AllBut(newcomers) if newcomers.contains(identity) => Owner::Nobody,
            Known::All | Known::AllBut(_) => Owner::Somebody,
        }
    }
}

/// Whether somebody has an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// It was not looked up yet.
    Unasked,
    /// Nobody had it when it was looked up.
    Nobody,
    Somebody,
}

/// The identities that an event is about: its own, and the one it links, if it links.
pub(super) fn identities(event: &Event) -> (Option<&Identity>, Option<&Identity>) {
    let own = event.identity();
    let linked = match &event.call {
        Call::Identify { .. } if event.user.is_some() => event.anonymous.as_ref(),
        Call::Alias { previous } => Some(previous),
        _ => None,
    };
    (own, linked.filter(|linked| Some(*linked) != own))
}

/// Every identity that the items name, each once.
fn mentioned(items: &[Item]) -> Vec<Identity> {
    let mut wanted: Vec<Identity> = Vec::new();
    for item in items {
        if let Item::Event(event) = item {
            let (own, linked) = identities(event);
            wanted.extend(own.into_iter().chain(linked).cloned());
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// An alias names the previous id without its kind. It is taken for a user's; where no user of that
/// id is known, or named by an event before it, but an anonymous one is, that one is meant. Returns
/// the places of aliases, in order, with the anonymous identity each might mean.
fn anonymous_twins(items: &[Item]) -> Vec<(usize, Identity)> {
    items
        .iter()
        .enumerate()
        .filter_map(|(place, item)| match item {
            Item::Event(event) => match &event.call {
                Call::Alias { previous } if previous.kind() == IdentityKind::User => {
                    Some((place, Identity::anonymous(previous.value()).ok()?))
                }
                _ => None,
            },
            _ => None,
        })
        .collect()
}

/// Has each alias name the identity that it means, as [`anonymous_twins`] says. A request may be
/// thousands of aliases, so none looks through those before it.
fn settle_twins(
    items: &mut [Item],
    twins: Vec<(usize, Identity)>,
    is_known: impl Fn(&Identity) -> bool,
) {
    if twins.is_empty() {
        return;
    }
    let mentioned = mentioned(items);
    // Those that the events before the alias are filed under.
    let mut named: HashSet<&Identity> = HashSet::new();
    let mut looked_at = 0;
    let mut meant = Vec::new();
    for (place, twin) in twins {
        for item in items.get(looked_at..place).unwrap_or_default() {
            if let Item::Event(event) = item {
                named.extend(event.identity());
            }
        }
        looked_at = place;
        let Some(Item::Event(event)) = items.get(place) else {
            continue;
        };
        let Call::Alias { previous } = &event.call else {
            continue;
        };
        let user_is_known = is_known(previous) || named.contains(previous);
        let twin_is_known = is_known(&twin) || mentioned.binary_search(&twin).is_ok();
        if !user_is_known && twin_is_known {
            meant.push((place, twin));
        }
    }
    for (place, twin) in meant {
        if let Some(Item::Event(event)) = items.get_mut(place)
            && let Call::Alias { previous } = &mut event.call
        {
            *previous = twin;
        }
    }
}

/// Splits a request by shard. Everything that the request itself links, that leads to one person
/// or that carries one message id, stays together and in order; items without a person go with the
/// first that has one.
pub(super) async fn split(
    targeting: &Targeting,
    project: ProjectId,
    mut items: Vec<Item>,
    shards: usize,
) -> Result<Split, Error> {
    if let [Item::Event(event)] = items.as_slice()
        && !matches!(event.call, Call::Alias { .. })
        && let (Some(own), None) = identities(event)
    {
        let own = own.clone();
        return Ok(split_one(targeting, project, items, &own, shards));
    }
    let twins = anonymous_twins(&items);
    let mut wanted = mentioned(&items);
    wanted.extend(twins.iter().map(|(_, twin)| twin.clone()));
    let known = targeting.addresses(project, wanted).await?;
    settle_twins(&mut items, twins, |identity| known.contains_key(identity));
    let wanted = mentioned(&items);

    let mut groups = Groups::default();
    for identity in &wanted {
        let group = groups.of(Name::Identity(identity.clone()));
        match known.get(identity) {
            Some(address) => {
                let person = groups.of(Name::Person(address.person.0));
                groups.join(group, person);
                groups.settle(group, address.home);
            }
            None => groups.suggest(group, identity.home(project)),
        }
    }
    for item in &items {
        let Item::Event(event) = item else { continue };
        let (Some(own), linked) = identities(event) else {
            continue;
        };
        let own = groups.of(Name::Identity(own.clone()));
        if let Some(linked) = linked {
            let linked = groups.of(Name::Identity(linked.clone()));
            groups.join(own, linked);
        }
        // Of two items with one message id the first is the event, whomever they are about.
        if let (true, Some(id)) = (items.len() > 1, &event.message_id) {
            let message = groups.of(Name::Message(id.clone()));
            groups.join(own, message);
        }
    }
    let homes: Vec<Option<i64>> = items
        .iter()
        .map(|item| match item {
            Item::Event(event) => event.identity().map(|identity| {
                let group = groups.of(Name::Identity(identity.clone()));
                groups.home(group)
            }),
            _ => None,
        })
        .collect();
    let fallback = homes.iter().flatten().next().copied().unwrap_or(project.0);
    let mut parts: Vec<Part> = Vec::new();
    for (place, (item, home)) in items.into_iter().zip(homes).enumerate() {
        let shard = shard_of(home.unwrap_or(fallback), shards);
        match parts.iter_mut().find(|(number, _)| *number == shard) {
            Some((_, part)) => part.push((place, item)),
            None => parts.push((shard, vec![(place, item)])),
        }
    }
    let newcomers = wanted
        .into_iter()
        .filter(|identity| !known.contains_key(identity))
        .collect();
    Ok(Split {
        parts,
        known: Known::AllBut(Arc::new(newcomers)),
        remembered: None,
    })
}

/// Most requests are one event of one identity: nothing can belong together. An identity that is
/// not remembered goes to the shard that it would have if it were new, which is the right one unless
/// it was linked to another. Who it is the shard finds out, together with others of its batch.
fn split_one(
    targeting: &Targeting,
    project: ProjectId,
    items: Vec<Item>,
    own: &Identity,
    shards: usize,
) -> Split {
    let people = targeting.people();
    let epoch = people.epoch();
    let address = people.address(project, own);
    let home = address.map_or_else(|| own.home(project), |address| address.home);
    let part = items.into_iter().enumerate().collect();
    Split {
        parts: vec![(shard_of(home, shards), part)],
        known: address.map_or(Known::Unasked, |_| Known::All),
        remembered: address
            .and_then(|address| people.remembered(epoch, address))
            .filter(|it| it.state().traits.len() <= HELD_TRAITS_BYTES_MAX),
    }
}

fn shard_of(home: i64, shards: usize) -> usize {
    let shards = u64::try_from(shards.max(1)).unwrap_or(1);
    usize::try_from(home.cast_unsigned() % shards).unwrap_or(0)
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Name {
    Identity(Identity),
    Person(i64),
    Message(MessageId),
}

/// Union-find over the names that one request mentions.
#[derive(Debug, Default)]
struct Groups {
    numbers: HashMap<Name, usize>,
    parents: Vec<usize>,
    /// A home, and whether it is a known person's (which outweighs an unknown identity's hash).
    homes: Vec<Option<(bool, i64)>>,
}

impl Groups {
    fn of(&mut self, name: Name) -> usize {
        let next = self.parents.len();
        let number = *self.numbers.entry(name).or_insert(next);
        if number == next {
            self.parents.push(next);
            self.homes.push(None);
        }
        self.root(number)
    }

    fn root(&mut self, mut number: usize) -> usize {
        while self.parents[number] != number {
            self.parents[number] = self.parents[self.parents[number]];
            number = self.parents[number];
        }
        number
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        if one != other {
            self.parents[other] = one;
            self.homes[one] = best(self.homes[one], self.homes[other]);
        }
    }

    fn settle(&mut self, group: usize, home: i64) {
        let group = self.root(group);
        self.homes[group] = best(self.homes[group], Some((true, home)));
    }

    fn suggest(&mut self, group: usize, home: i64) {
        let group = self.root(group);
        self.homes[group] = best(self.homes[group], Some((false, home)));
    }

    fn home(&mut self, group: usize) -> i64 {
        let group = self.root(group);
        self.homes[group].map_or(0, |(_, home)| home)
    }
}

fn best(one: Option<(bool, i64)>, other: Option<(bool, i64)>) -> Option<(bool, i64)> {
    match (one, other) {
        (Some((false, _)), Some((true, _))) | (None, Some(_)) => other,
        _ => one,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;
    use crate::error::Code;
    use crate::ingest::decode::Rejection;
    use crate::model::Dialect;

    fn event(call: Call, user: Option<&str>, anonymous: Option<&str>) -> Item {
        Item::Event(Box::new(Event {
            dialect: Dialect::Segment,
            call,
            user: user.map(|id| Identity::user(id).unwrap()),
            anonymous: anonymous.map(|id| Identity::anonymous(id).unwrap()),
            message_id: None,
            timestamp: DateTime::UNIX_EPOCH,
            received_at: DateTime::UNIX_EPOCH,
            context: None,
            size_bytes: 0,
            replay_of: None,
        }))
    }

    /// An item without a person.
    fn rejected() -> Item {
        match event(Call::Page { properties: None }, Some("a"), None) {
            Item::Event(event) => {
                let message = String::new();
                Item::Rejected(Rejection::of_event(&event, Code::InvalidField, message))
            }
            rejected => rejected,
        }
    }

    fn alias(user: &str, previous: Identity) -> Item {
        event(Call::Alias { previous }, Some(user), None)
    }

    /// The same, each alias looking through all items.
    fn settle_one_by_one(items: &mut [Item], is_known: impl Fn(&Identity) -> bool) {
        let mentioned = mentioned(items);
        for (place, twin) in anonymous_twins(items) {
            let (before, rest) = items.split_at_mut(place);
            let Some(Item::Event(event)) = rest.first_mut() else {
                continue;
            };
            let Call::Alias { previous } = &mut event.call else {
                continue;
            };
            let names = |item: &Item| matches!(item, Item::Event(event) if event.identity() == Some(previous));
            let user_is_known = is_known(previous) || before.iter().any(names);
            let twin_is_known = is_known(&twin) || mentioned.contains(&twin);
            if !user_is_known && twin_is_known {
                *previous = twin;
            }
        }
    }

    fn id() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "c", "d", "e", "f"])
    }

    fn identity() -> impl Strategy<Value = Identity> {
        let of = |(is_user, id)| match is_user {
            true => Identity::user(id).unwrap(),
            false => Identity::anonymous(id).unwrap(),
        };
        (any::<bool>(), id()).prop_map(of)
    }

    fn item() -> impl Strategy<Value = Item> {
        let page = || Call::Page { properties: None };
        let identify = |(user, anonymous)| {
            let call = Call::Identify { traits: None };
            event(call, Some(user), Some(anonymous))
        };
        prop_oneof![
            1 => Just(rejected()),
            2 => id().prop_map(move |user| event(page(), Some(user), None)),
            2 => id().prop_map(move |anonymous| event(page(), None, Some(anonymous))),
            2 => (id(), id()).prop_map(identify),
            6 => (id(), identity()).prop_map(|(user, previous)| alias(user, previous)),
        ]
    }

    proptest! {
        #[test]
        fn aliases_mean_what_each_finds_by_looking_through_all(
            items in prop::collection::vec(item(), 0..12),
            known in prop::collection::hash_set(identity(), 0..4),
        ) {
            let is_known = |identity: &Identity| known.contains(identity);
            let mut settled = items.clone();
            settle_twins(&mut settled, anonymous_twins(&items), is_known);
            let mut expected = items;
            settle_one_by_one(&mut expected, is_known);
            prop_assert_eq!(format!("{settled:?}"), format!("{expected:?}"));
        }
    }
}
