//! Routers in this process: it is root wherever there are containers.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use groundswell_common::nat::NatKind;

use super::host_error;
use crate::network::nat::{NatError, Tree, TreeSpec};
use crate::runtime::{Nat, RuntimeError};

/// Until it is closed.
struct Here(Arc<Mutex<Option<Tree>>>);

/// Makes routers.
pub(super) async fn make(spec: TreeSpec) -> Result<(Arc<dyn Nat>, OwnedFd), RuntimeError> {
    let (tree, device) = beside(move || Tree::new(&spec)).await?;
    Ok((Arc::new(Here(Arc::new(Mutex::new(Some(tree))))), device))
}

impl Here {
    async fn with(
        &self,
        act: impl FnOnce(&mut Tree) -> Result<(), NatError> + Send + 'static,
    ) -> Result<(), RuntimeError> {
        let tree = Arc::clone(&self.0);
        beside(move || {
            let mut tree = tree.lock().unwrap_or_else(PoisonError::into_inner);
            tree.as_mut().map_or(Ok(()), act)
        })
        .await
    }
}

/// Does what takes a while on a thread for that.
async fn beside<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, NatError> + Send + 'static,
) -> Result<T, RuntimeError> {
    let done = tokio::task::spawn_blocking(act).await;
    done.map_err(|err| host_error("work on a router".to_owned(), err))?.map_err(Into::into)
}

#[async_trait]
impl Nat for Here {
    async fn join(&self, member: u32, namespace: OwnedFd) -> Result<(), RuntimeError> {
        self.with(move |tree| tree.join(member, namespace.as_fd())).await
    }

    async fn rebind(&self) -> Result<(), RuntimeError> {
        self.with(Tree::rebind).await
    }

    async fn become_kind(&self, kind: Option<NatKind>) -> Result<(), RuntimeError> {
        self.with(move |tree| tree.become_kind(kind)).await
    }

    async fn readdress(&self, address: Ipv4Addr) -> Result<(), RuntimeError> {
        self.with(move |tree| tree.readdress(address)).await
    }

    async fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
