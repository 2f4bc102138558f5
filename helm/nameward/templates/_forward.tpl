{{/* The user of resolvers and of their signer, without any right. */}}
{{- define "nameward.nobody" -}}
{{- include "nameward.confined" . }}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
{{- end }}

{{/* What the signer's containers have in common. */}}
{{- define "nameward.signer" -}}
env:
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
{{- with include "nameward.apiServer" . }}
{{ . }}
{{- end }}
securityContext:
  {{- include "nameward.nobody" . | nindent 2 }}
resources:
  requests: {cpu: 10m, memory: 32Mi}
  limits: {memory: 128Mi}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
- {name: certificates, mountPath: /run/certificates}
- {name: account, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}
