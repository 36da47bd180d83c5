{{/* The image, by digest where one is given. */}}
{{- define "athanor.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "athanor.labels" -}}
app.kubernetes.io/name: athanor
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* Rights, leases and the agents' accounts are in this namespace by name. */}}
{{- define "athanor.namespace" -}}
{{- if ne .Release.Namespace "athanor-system" -}}
{{- fail "Athanor lives in the namespace athanor-system: install it with --namespace athanor-system --create-namespace" -}}
{{- end -}}
athanor-system
{{- end -}}

{{/* How the operator runs the agents. */}}
{{- define "athanor.agentSettings" -}}
image: {{ include "athanor.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
imagePullSecrets: {{ toJson .Values.image.pullSecrets }}
nodeSelector: {{ toJson .Values.agent.nodeSelector }}
tolerations: {{ toJson .Values.agent.tolerations }}
{{- with .Values.agent.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
resources: {{ toJson .Values.agent.resources }}
mediaDirs: {{ toJson .Values.agent.mediaDirs }}
loaderDirs: {{ toJson .Values.agent.loaderDirs }}
httpPort: {{ .Values.agent.httpPort }}
healthPort: {{ .Values.agent.healthPort }}
log: {{ .Values.agent.log | quote }}
{{- end -}}
