{{/*
Binding of an admission policy. Call with (dict "root" $ "name" "..." "exempt" true); the exempt namespaces apply
only where the caller says so. "params" names the HybridPolicy that the rules read; without one of that name they hold
nobody back.
*/}}
{{- define "tangram.admissionBinding" -}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  {{- include "tangram.metadata" . | nindent 2 }}
spec:
  policyName: {{ .name }}
  {{- with .params }}
  paramRef:
    name: {{ . }}
    parameterNotFoundAction: Allow
  {{- end }}
  validationActions:
    {{- toYaml .root.Values.admission.actions | nindent 4 }}
  {{- if and .exempt .root.Values.admission.exemptNamespaces }}
  matchResources:
    namespaceSelector:
      matchExpressions:
        - key: kubernetes.io/metadata.name
          operator: NotIn
          values:
            {{- toYaml .root.Values.admission.exemptNamespaces | nindent 12 }}
  {{- end }}
  {{- with .matchResources }}
  matchResources:
    {{- . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/*
Where the rules about devices hold: everywhere but in the release's own namespace, in those of GPU drivers, and in those
that may run privileged pods, which see all devices anyway.
*/}}
{{- define "tangram.whereDevicesAreGuarded" -}}
{{- $exempt := concat (list .Release.Namespace) .Values.admission.exemptNamespaces .Values.admission.devices.exemptNamespaces | uniq | sortAlpha -}}
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: NotIn
      values:
        {{- toYaml $exempt | nindent 8 }}
    {{- if .Values.admission.devices.exemptPrivileged }}
    - key: pod-security.kubernetes.io/enforce
      operator: NotIn
      values: [privileged]
    {{- end }}
{{- end -}}

{{/*
Folders of the host, as a regular expression for hostPath, that hold devices or lead to those who give them: device
files, tangram's and NVIDIA's runtime folders, sockets of container runtimes and of the kubelet, device specifications,
and the roots of other processes. Paths with ".." are refused by the API server itself. Call with "with-parents" for the
folders above them as well, which those who mount them have for many other ends: storage, networks, monitoring.
*/}}
{{- define "tangram.guardedPaths" -}}
{{- $dev := `dev/[/.]*(nvidia|dri|kfd|davinci|cambricon).*` -}}
{{- $run := `(var/[/.]*)?run/[/.]*(tangram|nvidia|containerd|docker|crio|cri-dockerd|k3s|nri|cdi).*` -}}
{{- $kubelet := `var/[/.]*lib/[/.]*kubelet/[/.]*(device-plugins|pod-resources).*` -}}
{{- $process := `proc/[/.]*([0-9]+|self|thread-self)([/].*)?` -}}
{{- $socket := `.*/(containerd|docker|dockershim|cri-dockerd|crio)[.]sock[/.]*` -}}
{{- $parents := ternary `|dev[/.]*|(var/[/.]*)?run[/.]*|var[/.]*|var/[/.]*lib[/.]*|var/[/.]*lib/[/.]*kubelet[/.]*|` "" (eq . "with-parents") -}}
{{- printf "^/[/.]*(%s|%s|%s|etc/[/.]*cdi.*|%s|%s%s)$" $dev $run $kubelet $process $socket $parents -}}
{{- end -}}

{{/* Annotations that name devices or host paths to plugins of the container runtime, as a regular expression. */}}
{{- define "tangram.deviceAnnotations" -}}
^([-a-z0-9]+[.])*(cdi[.]k8s[.]io|(devices|mounts|cdi|cdi-devices)[.](nri[.]io|noderesource[.]dev))(/.*)?$
{{- end -}}
