//! Which shard each item of a request goes to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::decode::Item;
use crate::error::Error;
use crate::model::{Call, Event, Identity, IdentityKind, MessageId, ProjectId};
use crate::targeting::Targeting;

/// The items of one shard, each with its place in the request.
pub(super) type Part = (usize, Vec<(usize, Item)>);

/// A request, split.
#[derive(Debug)]
pub(super) struct Split {
    /// What each shard gets.
    pub(super) parts: Vec<Part>,
    pub(super) known: Known,
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
/// id is known, or named by an event before it, but an anonymous one is, that one is meant. Returns the places of aliases with the
/// anonymous identity each might mean.
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
    let mentioned_before = mentioned(&items);
    for (place, twin) in twins {
        let (before, rest) = items.split_at_mut(place);
        let Some(Item::Event(event)) = rest.first_mut() else {
            continue;
        };
        let Call::Alias { previous } = &mut event.call else {
            continue;
        };
        let names =
            |item: &Item| matches!(item, Item::Event(event) if event.identity() == Some(previous));
        let user_is_known = known.contains_key(previous) || before.iter().any(names);
        let twin_is_known = known.contains_key(&twin) || mentioned_before.contains(&twin);
        if !user_is_known && twin_is_known {
            *previous = twin;
        }
    }
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
    let address = targeting.people().address(project, own);
    let home = address.map_or_else(|| own.home(project), |address| address.home);
    let part = items.into_iter().enumerate().collect();
    Split {
        parts: vec![(shard_of(home, shards), part)],
        known: address.map_or(Known::Unasked, |_| Known::All),
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
