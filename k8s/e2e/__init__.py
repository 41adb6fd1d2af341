"""The end-to-end check of the manifests on a cluster: `make k8s-e2e`."""
