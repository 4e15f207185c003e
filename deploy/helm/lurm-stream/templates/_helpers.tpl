{{- define "lurm.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "lurm.selector" -}}
app.kubernetes.io/name: lurm-stream
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lurm.labels" -}}
{{ include "lurm.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "lurm.image" -}}
{{- $tag := .Values.image.tag | default (printf "%s-%s" .Chart.AppVersion .Values.image.variant) -}}
image: {{ printf "%s:%s" .Values.image.repository $tag | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "lurm.pod" -}}
automountServiceAccountToken: false
# Service links would set LURM_..._PORT, which is no setting: refused.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "lurm.worker.resources" -}}
{{- $gpu := eq .Values.image.variant "cuda" | ternary (dict "limits" (dict "nvidia.com/gpu" 1)) dict -}}
{{- toYaml (merge (deepCopy .Values.resources) $gpu) -}}
{{- end -}}

{{- define "lurm.env" -}}
- name: LURM_METRICS__HOST
  value: 0.0.0.0
{{- range $section, $leaves := .Values.settings }}
{{- range $key, $value := $leaves }}
- name: {{ printf "LURM_%s__%s" (upper $section) (upper $key) }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end }}
{{- range $name, $from := .Values.secrets }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef: {{- toYaml $from | nindent 6 }}
{{- end }}
{{- end -}}

{{- define "lurm.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.kafkaFilesSecret }}
- {name: kafka, mountPath: /etc/lurm/kafka, readOnly: true}
{{- end }}
{{- end -}}

{{- define "lurm.volumes" -}}
- name: tmp
  emptyDir: {}
{{- with .Values.kafkaFilesSecret }}
- name: kafka
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end -}}
