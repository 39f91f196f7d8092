{{- define "ashlar.labels" -}}
app.kubernetes.io/name: ashlar
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* Labels by which pods are found; called with (list $ component). */ -}}
{{- define "ashlar.selector" -}}
app.kubernetes.io/name: ashlar
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "ashlar.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{- define "ashlar.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "ashlar.secured" -}}
{{- if eq .Values.security.mode "identities" }}yes{{ end -}}
{{- end -}}

{{- define "ashlar.scheme" -}}
{{- ternary "https" "http" (eq .Values.security.mode "identities") -}}
{{- end -}}

{{- /* The APIs of all conductors, each by its own name: the one that leads answers. */ -}}
{{- define "ashlar.conductors" -}}
{{- $urls := list -}}
{{- range until (int .Values.conductor.replicas) -}}
{{- $urls = append $urls (printf "%s://ashlar-conductor-%d.ashlar-conductor.%s.svc:7100" (include "ashlar.scheme" $) . $.Release.Namespace) -}}
{{- end -}}
{{- join "," $urls -}}
{{- end -}}

{{- define "ashlar.env" -}}
- name: NODE_NAME
  valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
- name: HOST_IP
  valueFrom: { fieldRef: { fieldPath: status.hostIP } }
{{- end -}}

{{- /* Where a process on a node's network serves metrics; called with (list $ port). */ -}}
{{- define "ashlar.nodeMetrics" -}}
{{- ternary "$(HOST_IP)" "127.0.0.1" (index . 0).Values.monitoring.enabled }}:{{ index . 1 }}
{{- end -}}

{{- /* Probes of a process on a node's network; called with (list $ port). */ -}}
{{- define "ashlar.nodeProbes" -}}
{{- $host := (index . 0).Values.monitoring.enabled }}
startupProbe:
  httpGet: { path: /healthz, port: {{ index . 1 }}{{ if not $host }}, host: 127.0.0.1{{ end }} }
  periodSeconds: 5
  failureThreshold: 120
livenessProbe:
  httpGet: { path: /healthz, port: {{ index . 1 }}{{ if not $host }}, host: 127.0.0.1{{ end }} }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /readyz, port: {{ index . 1 }}{{ if not $host }}, host: 127.0.0.1{{ end }} }
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}

{{- /* What a container that needs nothing may do. */ -}}
{{- define "ashlar.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end -}}
