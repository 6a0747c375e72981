//! The sockets of a VMM: one to ask for everything, and one on which everybody only looks.

use std::io;
use std::path::{Path, PathBuf, absolute};

use super::rights::Rights;
use super::server::{Server, ServerError};
use crate::socket::Ownership;

/// Where clients find a VMM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApiPaths {
    pub(crate) api: Option<PathBuf>,
    pub(crate) status: Option<PathBuf>,
}

impl ApiPaths {
    pub(crate) fn new(api: Option<&Path>, status: Option<&Path>) -> Self {
        Self {
            api: api.map(Path::to_path_buf),
            status: status.map(Path::to_path_buf),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &PathBuf> {
        self.api.iter().chain(&self.status)
    }
}

/// What listens there.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    pub(crate) api: Option<Server>,
    pub(crate) status: Option<Server>,
}

impl Servers {
    pub(crate) fn bind(paths: &ApiPaths, ownership: &Ownership) -> Result<Self, ServerError> {
        let bind = |path: &Option<PathBuf>, rights| {
            let bind = |path: &PathBuf| {
                // Whoever takes the guest over has another working directory.
                let path = absolute(path).unwrap_or_else(|_| path.clone());
                Server::bind(&path, rights, ownership)
            };
            path.as_ref().map(bind).transpose()
        };
        Ok(Self {
            api: bind(&paths.api, Rights::of_owner())?,
            status: bind(&paths.status, Rights::Look)?,
        })
    }

    /// Lets a group connect, to look: to the socket that is for nothing else, if there is one.
    pub(crate) fn share(&self, group: u32) -> io::Result<()> {
        let server = self.status.as_ref().or(self.api.as_ref());
        server.map_or(Ok(()), |server| server.share(group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_group_gets_the_socket_that_it_can_do_least_on() {
        let dir = tempfile::tempdir().unwrap();
        let (api, status) = (dir.path().join("api"), dir.path().join("status"));
        let group = fs::metadata(dir.path()).unwrap().gid();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for (own, of_api) in [(None, 0o660), (Some(&*status), 0o600)] {
            let paths = ApiPaths::new(Some(&api), own);
            let servers = Servers::bind(&paths, &Ownership::new(true)).unwrap();
            servers.share(group).unwrap();
            assert_eq!(mode(&api), of_api);
            assert_eq!(own.map(mode), own.map(|_| 0o660));
        }
    }
}
