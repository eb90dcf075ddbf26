//! Who becomes a member: invites are burnt and their bearers admitted, in the transaction of the caller.

use proto::{NodeId, limits};
use rusqlite::{OptionalExtension, Transaction, params};

use super::{Bearer, Redeemed, Trouble};

/// Invites that were used or have expired are remembered so long, so that whoever comes late hears why.
pub(super) const CLOSED_INVITE_S: i64 = 7 * 24 * 3600;
/// Closed invites that are remembered at most.
pub(super) const CLOSED_INVITES_MAX: i64 = 1024;

/// Keeps the table of invites small.
pub(super) fn forget_closed(transaction: &Transaction<'_>, now_unix_s: i64) -> Result<(), Trouble> {
    let long_ago = now_unix_s.saturating_sub(CLOSED_INVITE_S);
    transaction.execute(
        "DELETE FROM invites WHERE coalesce(used_at, expires_at) < ?1",
        [long_ago],
    )?;
    transaction.execute(
        "DELETE FROM invites WHERE fingerprint IN (
            SELECT fingerprint FROM invites WHERE used_at IS NOT NULL OR expires_at <= ?1
            ORDER BY coalesce(used_at, expires_at) DESC LIMIT -1 OFFSET ?2)",
        [now_unix_s, CLOSED_INVITES_MAX],
    )?;
    Ok(())
}

pub(super) fn redeem(
    transaction: &Transaction<'_>,
    bearer: &Bearer,
    now_unix_s: i64,
) -> Result<Redeemed, Trouble> {
    let invite: Option<(i64, Option<i64>)> = transaction
        .query_row(
            "SELECT expires_at, used_at FROM invites WHERE fingerprint = ?1",
            [bearer.fingerprint],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    match invite {
        None => return Ok(Redeemed::Unknown),
        Some((_, Some(_))) => return Ok(Redeemed::Used),
        Some((expires_at, None)) if expires_at <= now_unix_s => return Ok(Redeemed::Expired),
        Some(_) => {}
    }
    if !has_room(transaction, &bearer.node)? {
        return Ok(Redeemed::Full);
    }
    transaction.execute(
        "UPDATE invites SET used_at = ?2, used_by = ?3 WHERE fingerprint = ?1",
        params![bearer.fingerprint, now_unix_s, bearer.node.as_str()],
    )?;
    admit(transaction, &bearer.node, &bearer.name, now_unix_s)?;
    Ok(Redeemed::Admitted)
}

/// Whether a machine may be a member beside the others.
pub(super) fn has_room(transaction: &Transaction<'_>, node: &NodeId) -> Result<bool, Trouble> {
    let others: i64 = transaction.query_row(
        "SELECT count(*) FROM members WHERE removed_at IS NULL AND node_id <> ?1",
        [node.as_str()],
        |row| row.get(0),
    )?;
    Ok(usize::try_from(others).unwrap_or(usize::MAX) < limits::NODES_MAX)
}

pub(super) fn admit(
    transaction: &Transaction<'_>,
    node: &NodeId,
    name: &str,
    now_unix_s: i64,
) -> Result<(), Trouble> {
    transaction.execute(
        "INSERT INTO members (node_id, name, joined_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (node_id) DO UPDATE SET name = ?2, joined_at = ?3, removed_at = NULL",
        params![node.as_str(), name, now_unix_s],
    )?;
    Ok(())
}
