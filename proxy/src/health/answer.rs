//! What a load balancer is told, byte for byte as kube-proxy says it (`pkg/proxy/healthcheck/service_health.go`). Pure.

use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS},
};
use serde_json::Value;

use crate::objects::ObjectName;

/// How many endpoints are on this node, for balancers that weigh nodes by that.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    pub(super) service: &'a ObjectName,
    pub(super) local_endpoints: usize,
    pub(super) is_proxy_healthy: bool,
}

impl Answer<'_> {
    /// Whether traffic should come here.
    fn status(&self) -> StatusCode {
        if self.local_endpoints > 0 && self.is_proxy_healthy {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }

    fn body(&self) -> String {
        let Self { service, local_endpoints, is_proxy_healthy } = self;
        let (namespace, name) = (Value::from(&*service.namespace), Value::from(&*service.name));
        format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace},\n\t\t\"name\": {name}\n\t}},\n\t\
             \"localEndpoints\": {local_endpoints},\n\t\"serviceProxyHealthy\": {is_proxy_healthy}\n}}"
        )
    }

    /// All of it.
    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.body()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(WEIGHT, self.local_endpoints.into());
        response
    }
}
