//! Who dials whom at first.
//!
//! A topology is a list of edges `(dialer, listener)` over the numbers of the
//! nodes, without loops and doubles, and follows from the seed.

use std::collections::BTreeSet;

use crate::Rng;

/// Who dials whom, as pairs `(dialer, listener)`.
pub type Edges = BTreeSet<(usize, usize)>;

/// Everybody dials the next, and the last one the first.
#[must_use]
pub fn ring(nodes: usize) -> Edges {
    let mut edges = Edges::new();
    for node in 0..nodes {
        connect(&mut edges, node, (node + 1) % nodes);
    }
    edges
}

/// Everybody dials `degree` others at random, so that each has about twice
/// as many neighbours.
#[must_use]
pub fn random(nodes: usize, degree: usize, seed: u64) -> Edges {
    let mut rng = Rng::new(seed, "topology/random");
    let mut edges = Edges::new();
    for node in 0..nodes {
        let mut others: Vec<_> = (0..nodes).filter(|other| *other != node).collect();
        rng.shuffle(&mut others);
        for other in others.into_iter().take(degree) {
            connect(&mut edges, node, other);
        }
    }
    edges
}

/// Barabási and Albert's model: each new node dials `links` earlier ones, and
/// prefers those with many neighbours.
#[must_use]
pub fn scale_free(nodes: usize, links: usize, seed: u64) -> Edges {
    let mut rng = Rng::new(seed, "topology/scale-free");
    let mut edges = Edges::new();
    // A node stands here once for each of its edges: drawing one from the
    // list prefers nodes with many.
    let mut ends: Vec<usize> = vec![0];
    for node in 1..nodes {
        let mut chosen = BTreeSet::new();
        while chosen.len() < links.min(node) {
            chosen.insert(ends[rng.index(ends.len())]);
        }
        for other in chosen {
            connect(&mut edges, node, other);
            ends.extend([node, other]);
        }
    }
    edges
}

/// A ring, so that all is connected, with a share of all other pairs.
#[must_use]
pub fn sparse(nodes: usize, share: f64, seed: u64) -> Edges {
    let mut rng = Rng::new(seed, "topology/sparse");
    let mut edges = ring(nodes);
    for dialer in 0..nodes {
        for listener in dialer + 1..nodes {
            if rng.ratio() < share {
                connect(&mut edges, dialer, listener);
            }
        }
    }
    edges
}

/// Whom a node dials.
pub fn dials_of(edges: &Edges, node: usize) -> impl Iterator<Item = usize> {
    edges.range((node, 0)..=(node, usize::MAX)).map(|(_, listener)| *listener)
}

fn connect(edges: &mut Edges, dialer: usize, listener: usize) {
    if dialer != listener && !edges.contains(&(listener, dialer)) {
        edges.insert((dialer, listener));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(edges: &Edges, nodes: usize) -> usize {
        let mut seen = BTreeSet::from([0]);
        let mut open = vec![0];
        while let Some(node) = open.pop() {
            for other in 0..nodes {
                let linked = edges.contains(&(node, other)) || edges.contains(&(other, node));
                if linked && seen.insert(other) {
                    open.push(other);
                }
            }
        }
        seen.len()
    }

    #[test]
    fn a_ring_of_two_is_one_connection() {
        assert_eq!(ring(2), Edges::from([(0, 1)]));
        assert_eq!(ring(1), Edges::new());
        assert_eq!(ring(5).len(), 5);
    }

    #[test]
    fn every_topology_connects_all_and_follows_from_the_seed() {
        for build in [
            |seed| random(40, 3, seed),
            |seed| scale_free(40, 2, seed),
            |seed| sparse(40, 0.05, seed),
        ] {
            let edges = build(7);
            assert_eq!(edges, build(7));
            assert_ne!(edges, build(8));
            assert_eq!(reached(&edges, 40), 40);
            assert!(edges.iter().all(|(a, b)| a != b && !edges.contains(&(*b, *a))));
        }
    }

    #[test]
    fn a_scale_free_network_has_hubs() {
        let edges = scale_free(200, 2, 1);
        let degree = |node| edges.iter().filter(|(a, b)| *a == node || *b == node).count();
        let most = (0..200).map(degree).max().unwrap();
        assert!(most > 20, "the largest hub has {most} neighbours");
    }

    #[test]
    fn dials_are_the_edges_that_begin_at_a_node() {
        let edges = Edges::from([(0, 1), (1, 2), (1, 3)]);
        assert_eq!(dials_of(&edges, 1).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(dials_of(&edges, 3).count(), 0);
    }
}
