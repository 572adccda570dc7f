//! Finds coordinators: the configured cluster, or the stacks that live on this machine.

use groundswell_common::api::ServiceInfo;
use groundswell_common::bus::{Bus, BusConfig};
use groundswell_common::objects::{Objects, ObjectsConfig};
use groundswell_common::permissions;

use super::call::call;
use super::exit::Exit;
use super::{Session, Trouble};
use crate::local;

/// A connection to where a coordinator serves.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// The bus.
    pub(crate) bus: Bus,
    /// Where that is, for people.
    pub(crate) place: String,
    /// The object store, when it is known without asking.
    pub(crate) objects: Option<Objects>,
}

impl Link {
    /// The object store: the one that is configured, or else the one the coordinator says it uses.
    pub(crate) async fn objects(&self, session: &Session) -> Result<Objects, Trouble> {
        if let Some(objects) = &self.objects {
            return Ok(objects.clone());
        }
        let info: ServiceInfo = call(&self.bus, "info", &()).await?;
        let configured = session.settings.objects.as_ref();
        if let Some(url) = configured.filter(|url| **url != info.objects) {
            session.out.warning(format_args!(
                "the coordinator uses the object store {}, and {url} is configured here",
                info.objects
            ));
        }
        open_objects(session, configured.unwrap_or(&info.objects))
    }
}

/// Opens an object store with what is configured for it.
pub(crate) fn open_objects(session: &Session, url: &str) -> Result<Objects, Trouble> {
    let endpoint = session.settings.s3_endpoint.clone();
    let region = std::env::var("AWS_REGION").ok();
    Objects::open(&ObjectsConfig { url: url.to_owned(), endpoint, region })
        .map_err(|err| Trouble::from_error(Exit::Usage, &err))
}

/// The object store that is there without any coordinator: the configured one or that of this machine.
pub(crate) fn resting_objects(session: &Session) -> Result<Objects, Trouble> {
    let url = session.settings.objects.clone();
    open_objects(session, &url.unwrap_or_else(|| local::store_url(&session.settings.home)))
}

/// The object store of the cluster, or of this machine.
pub(crate) async fn objects(session: &Session) -> Result<Objects, Trouble> {
    match for_submit(session).await? {
        Some(link) => link.objects(session).await,
        None => resting_objects(session),
    }
}

/// Connects to a NATS server.
pub(crate) async fn connect_bus(session: &Session, url: &str) -> Result<Bus, Trouble> {
    let config = BusConfig {
        access: session.settings.access.clone(),
        inbox: Some(permissions::USER_INBOX.to_owned()),
        token: session.settings.token.clone(),
        ..BusConfig::open(url, "coordinator command line")
    };
    Bus::connect(&config).await.map_err(|err| Trouble::from_error(Exit::Unreachable, &err))
}

/// Where a run can be submitted without starting anything: the cluster, or what `coordinator up` keeps.
pub(crate) async fn for_submit(session: &Session) -> Result<Option<Link>, Trouble> {
    if let Some(url) = &session.settings.nats {
        return cluster(session, url).await.map(Some);
    }
    match local::kept(&session.settings.home) {
        Some(endpoint) => stack(session, endpoint).await.map(Some),
        None => Ok(None),
    }
}

/// Every coordinator that can be asked about runs: the cluster alone, or all stacks of this machine.
pub(crate) async fn all(session: &Session) -> Result<Vec<Link>, Trouble> {
    if let Some(url) = &session.settings.nats {
        return Ok(vec![cluster(session, url).await?]);
    }
    let mut links = Vec::new();
    for endpoint in local::living_stacks(&session.settings.home) {
        // A stack may end between being found and being asked.
        if let Ok(link) = stack(session, endpoint).await {
            links.push(link);
        }
    }
    Ok(links)
}

async fn cluster(session: &Session, url: &str) -> Result<Link, Trouble> {
    let bus = connect_bus(session, url).await.map_err(|trouble| Trouble {
        help:
            "is the server running, and is the URL right? `coordinator doctor` looks at everything"
                .into(),
        ..trouble
    })?;
    Ok(Link { bus, place: format!("cluster {}", shown(url)), objects: None })
}

async fn stack(session: &Session, endpoint: local::Endpoint) -> Result<Link, Trouble> {
    let config = BusConfig::open(endpoint.url, "coordinator command line");
    let bus =
        Bus::connect(&config).await.map_err(|err| Trouble::from_error(Exit::Unreachable, &err))?;
    let objects = Some(open_objects(session, &endpoint.objects)?);
    let place = format!("stack of process {} on this machine", endpoint.pid);
    Ok(Link { bus, place, objects })
}

/// The URL without user and password.
fn shown(url: &str) -> String {
    let without = |one: &str| match (one.split_once("://"), one.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (_, _) => one.to_owned(),
    };
    url.split(',').map(without).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(shown("nats://me:secret@a:4222,nats://b"), "nats://a:4222,nats://b");
    }
}
