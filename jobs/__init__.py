"""Any ``itpn-ray`` verb as a job on a cluster: through Ray's job server, or as a KubeRay RayJob."""
