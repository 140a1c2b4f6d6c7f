{{/* Prefix of all names. */}}
{{- define "tangram.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The API group, as the definitions of the kinds have it: everything else of the chart is named after it. */}}
{{- define "tangram.group" -}}
{{- .Files.Get "files/crds/gpunodes.yaml" | regexFind "(?m)^  group: .*$" | trimPrefix "  group: " | required "files/crds/gpunodes.yaml names no group" -}}
{{- end -}}

{{/* Image reference: the digest, when there is one, decides. */}}
{{- define "tangram.image" -}}
{{- $repository := .Values.image.repository -}}
{{- if .Values.image.registry -}}{{- $repository = printf "%s/%s" .Values.image.registry $repository -}}{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Labels that select the pods of a component. Call with (dict "root" $ "component" "scheduler"). */}}
{{- define "tangram.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Labels of every object; "labels" (dict) adds some, and the chart's own win. */}}
{{- define "tangram.labels" -}}
{{- $own := include "tangram.selectorLabels" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "tangram" -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") -}}
{{- toYaml (merge $own (deepCopy (default (dict) .labels)) .root.Values.commonLabels) -}}
{{- end -}}

{{/*
Metadata of an object. Call with (dict "root" $ "component" "scheduler" "name" "..."), and optionally
"namespaced" true, "labels" (dict) and "annotations" (dict).
*/}}
{{- define "tangram.metadata" -}}
name: {{ .name }}
{{- if .namespaced }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
labels:
  {{- include "tangram.labels" . | nindent 2 }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Name of a component's service account. Call with (dict "root" $ "component" "scheduler"). */}}
{{- define "tangram.serviceAccountName" -}}
{{- $account := (get .root.Values .component).serviceAccount -}}
{{- default (printf "%s-%s" (include "tangram.fullname" .root) .component) $account.name -}}
{{- end -}}

{{/* The user as which the API server sees the scheduler. */}}
{{- define "tangram.schedulerUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "tangram.serviceAccountName" (dict "root" . "component" "scheduler") }}
{{- end -}}

{{/* The user as which the API server sees the agents of all nodes. */}}
{{- define "tangram.nodeUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "tangram.serviceAccountName" (dict "root" . "component" "node") }}
{{- end -}}

{{/*
The security context of a process's pods. Call with (dict "root" $ "component" "scheduler"). OpenShift gives each
namespace users and groups of its own and refuses others: the chart's own are left out there, those of somebody else stay.
*/}}
{{- define "tangram.podSecurityContext" -}}
{{- $context := deepCopy (get .root.Values .component).podSecurityContext -}}
{{- if .root.Capabilities.APIVersions.Has "security.openshift.io/v1" -}}
{{- range $key := list "runAsUser" "runAsGroup" "fsGroup" -}}
{{- if eq (toString (get $context $key)) "65532" -}}{{- $context = omit $context $key -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{/* The options that all processes have. */}}
{{- define "tangram.commonArguments" -}}
- --scheduler-name={{ .Values.schedulerName }}
- --health-port={{ .Values.ports.health }}
- --metrics-port={{ .Values.ports.metrics }}
- --log-level={{ .Values.log.level }}
- --log-format={{ .Values.log.format }}
{{- end -}}

{{/* How often, and for how long, a monitor scrapes, and what becomes of its labels. Call with the monitor's values. */}}
{{- define "tangram.scraping" -}}
interval: {{ .interval }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

