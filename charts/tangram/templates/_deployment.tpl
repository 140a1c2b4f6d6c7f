{{/* The Deployment of a process. Call with (dict "root" $ "component" "scheduler"). */}}
{{- define "tangram.deployment" -}}
{{- $root := .root -}}
{{- $values := get $root.Values .component -}}
{{- $name := printf "%s-%s" (include "tangram.fullname" $root) .component -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "tangram.metadata" (dict "root" $root "component" .component "name" $name "namespaced" true "annotations" $values.annotations) | nindent 2 }}
spec:
  replicas: {{ $values.replicas }}
  revisionHistoryLimit: 3
  strategy:
    type: {{ $values.strategy.type }}
    {{- if and (eq $values.strategy.type "RollingUpdate") $values.strategy.rollingUpdate }}
    rollingUpdate:
      {{- toYaml $values.strategy.rollingUpdate | nindent 6 }}
    {{- end }}
  selector:
    matchLabels:
      {{- include "tangram.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "tangram.labels" (merge (dict "labels" $values.podLabels) .) | nindent 8 }}
      {{- with merge (dict) $values.podAnnotations $root.Values.commonAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "tangram.serviceAccountName" . }}
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
      # Variables for each Service of the namespace: nobody reads them.
      enableServiceLinks: false
      securityContext:
        {{- include "tangram.podSecurityContext" . | nindent 8 }}
      {{- if eq .component "scheduler" }}
      initContainers:
        # The kernels that the image compiled at build time; the copy can be written, so that a processor of another
        # kind may compile its own.
        - name: kernels
          image: {{ include "tangram.image" $root }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          command: [cp, -r, /opt/tangram/kernels/., /var/cache/tangram/]
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          securityContext:
            {{- toYaml $values.securityContext | nindent 12 }}
          volumeMounts:
            - {name: cache, mountPath: /var/cache/tangram}
      {{- end }}
      containers:
        - name: {{ .component }}
          image: {{ include "tangram.image" $root }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args:
            - {{ .component }}
            - --lease-namespace={{ $root.Release.Namespace }}
            - --lease-name={{ $name }}
            {{- include "tangram.commonArguments" $root | nindent 12 }}
            - --metrics-access={{ $root.Values.metrics.access }}
            - --lease-duration={{ $values.lease.duration | int64 }}
            - --lease-renew-deadline={{ $values.lease.renewDeadline }}
            - --lease-retry-period={{ $values.lease.retryPeriod }}
            {{- if eq .component "scheduler" }}
            - --batch={{ $values.batch | int64 }}
            - --gang-timeout={{ $values.gangTimeout | int64 }}
            - --reservation-delay={{ $values.reservationDelay | int64 }}
            {{- end }}
            {{- range $values.extraArgs }}
            - {{ . | quote }}
            {{- end }}
          env:
            - {name: NUMBA_CACHE_DIR, value: /var/cache/tangram}
            {{- with $values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            - {name: health, containerPort: {{ $root.Values.ports.health }}}
            - {name: metrics, containerPort: {{ $root.Values.ports.metrics }}}
          startupProbe:
            httpGet: {path: /healthz, port: health}
            periodSeconds: 2
            failureThreshold: 60
          livenessProbe:
            httpGet: {path: /healthz, port: health}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet: {path: /readyz, port: health}
            periodSeconds: 5
            timeoutSeconds: 3
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          securityContext:
            {{- toYaml $values.securityContext | nindent 12 }}
          volumeMounts:
            - {name: cache, mountPath: /var/cache/tangram}
            - {name: tmp, mountPath: /tmp}
            {{- with $values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: cache
          emptyDir: {sizeLimit: 256Mi}
        - name: tmp
          emptyDir: {sizeLimit: 64Mi}
        {{- with $values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      affinity:
        {{- if $values.affinity }}
        {{- toYaml $values.affinity | nindent 8 }}
        {{- else }}
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
            - weight: 100
              podAffinityTerm:
                topologyKey: kubernetes.io/hostname
                labelSelector:
                  matchLabels:
                    {{- include "tangram.selectorLabels" . | nindent 20 }}
        {{- end }}
      topologySpreadConstraints:
        {{- if $values.topologySpreadConstraints }}
        {{- toYaml $values.topologySpreadConstraints | nindent 8 }}
        {{- else }}
        - maxSkew: 1
          topologyKey: topology.kubernetes.io/zone
          whenUnsatisfiable: ScheduleAnyway
          # Old pods that an upgrade is about to end do not count.
          matchLabelKeys: [pod-template-hash]
          labelSelector:
            matchLabels:
              {{- include "tangram.selectorLabels" . | nindent 14 }}
        {{- end }}
{{- end -}}
