{{/* Names are fixed: a node can have one Nameward, so a cluster has one release of this chart. */}}

{{- define "nameward.labels" -}}
app.kubernetes.io/name: nameward
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* What selects the pods of a component: never changes. */}}
{{- define "nameward.selector" -}}
app.kubernetes.io/name: nameward
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* The image called `name`: by its digest, else by its tag. */}}
{{- define "nameward.image" -}}
{{- $digest := index .root.Values.image.digests .name -}}
{{- $base := printf "%s/%s" .root.Values.image.registry .name -}}
{{- if $digest -}}
{{ printf "%s@%s" $base $digest | quote }}
{{- else -}}
{{ printf "%s:%s" $base (.root.Values.image.tag | default .root.Chart.AppVersion) | quote }}
{{- end -}}
{{- end }}

{{/* Addresses of the cluster's DNS, as JSON. */}}
{{- define "nameward.clusterDNS" -}}
{{- $addresses := .Values.clusterDNS.addresses -}}
{{- if not $addresses -}}
{{- with lookup "v1" "Service" "kube-system" "kube-dns" -}}
{{- $addresses = .spec.clusterIPs | default (list .spec.clusterIP) -}}
{{- end -}}
{{- end -}}
{{- if not $addresses -}}
{{- fail "clusterDNS.addresses is empty, and there is no Service kube-system/kube-dns to take them from (none is looked up without a cluster): set it to what kubelet has as clusterDNS" -}}
{{- end -}}
{{- toJson $addresses -}}
{{- end }}

{{/* What pods of the chart have in common: they depend on nothing that depends on them, neither CNI nor cluster DNS. */}}
{{- define "nameward.pod" -}}
hostNetwork: true
dnsPolicy: Default
{{- with .Values.priorityClass.name }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "nameward.tolerations" -}}
{{- with .Values.tolerations -}}
tolerations:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{- define "nameward.placement" -}}
{{- with .Values.nodeSelector -}}
nodeSelector:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Who needs no right of root. */}}
{{- define "nameward.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "nameward.apiServer" -}}
{{- with .Values.apiServer.host -}}
- {name: KUBERNETES_SERVICE_HOST, value: {{ . | quote }}}
- {name: KUBERNETES_SERVICE_PORT, value: {{ $.Values.apiServer.port | quote }}}
{{- end }}
{{- end }}

{{/* What values alone cannot say. */}}
{{- define "nameward.checks" -}}
{{- if has .Release.Namespace (list "default" "kube-system") -}}
{{- fail (printf "the namespace %s has other things in it, and Nameward's own namespace is exempt from policies: install it in one of its own, with --namespace nameward --create-namespace" .Release.Namespace) -}}
{{- end -}}
{{- if eq (int .Values.enforcer.apiPort) (int .Values.resolver.metricsPort) -}}
{{- fail "enforcer.apiPort and resolver.metricsPort are the same port of the node: choose two" -}}
{{- end -}}
{{- with lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" "nameward-enforcer" -}}
{{- $owner := .metadata.annotations | default dict -}}
{{- $name := index $owner "meta.helm.sh/release-name" -}}
{{- $namespace := index $owner "meta.helm.sh/release-namespace" -}}
{{- if not $name -}}
{{- fail "Nameward was installed in this cluster without Helm: stop it, and remove what was applied from deploy/rbac.yaml and deploy/admission-policy.yaml first" -}}
{{- else if or (ne $name $.Release.Name) (ne $namespace $.Release.Namespace) -}}
{{- fail (printf "Nameward is installed in this cluster already, as the release %s in the namespace %s, and a node can have only one: upgrade that one, or uninstall it first" $name $namespace) -}}
{{- end -}}
{{- end -}}
{{- if and .Release.IsInstall (lookup "apps/v1" "DaemonSet" .Release.Namespace "nameward-removal") -}}
{{- fail (printf "Nameward is still being removed from nodes that were down: wait for them, or delete the DaemonSet nameward-removal in the namespace %s" .Release.Namespace) -}}
{{- end -}}
{{- end }}
