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
{{- end -}}
