"""Invalid inference services: what is written, the field that is named, and why."""

from tests.api.invalid.case import Case


def service(name: str, patch: str, field: str, reason: str, allowed: str, server_field: str | None = None) -> Case:
    return Case("InferenceService", name, "spec: {" + patch + "}", f"spec.{field}", reason, allowed, server_field)


SERVICES = (
    service("no revisions", "revisions: []", "revisions", "should have at least 1 items", "1 to 8 items"),
    service(
        "revision without containers",
        "revisions: {0: {template: {spec: {containers: []}}}}",
        "revisions[0].template.spec.containers",
        "should have at least 1 items",
        "1 to 64 containers",
    ),
    service(
        "canary weights that make 90",
        "revisions: [{name: v1, weight: 80, template: &t {spec: {containers: [{name: c}]}}},"
        " {name: v2, weight: 10, template: *t}]",
        "revisions",
        "the weights of all revisions must make 100 together",
        "weights that make 100",
    ),
    service(
        "weights left out of two revisions",
        "revisions: [{name: v1, template: &t {spec: {containers: [{name: c}]}}}, {name: v2, template: *t}]",
        "revisions",
        "the weights of all revisions must make 100 together",
        "weights that make 100",
    ),
    service(
        "weight above 100",
        "revisions: {0: {weight: 101}}",
        "revisions[0].weight",
        "should be less than or equal to 100",
        "less than or equal to 100",
    ),
    service(
        "the same header twice",
        "revisions: {0: {headers: [{name: X-Group, value: a}, {name: X-Group, value: b}]}}",
        "revisions[0].headers[1].name",
        "Duplicate value",
        "at most once",
        "spec.revisions[0].headers[1]",
    ),
    service(
        "header name with a space",
        "revisions: {0: {headers: [{name: X Group, value: a}]}}",
        "revisions[0].headers[0].name",
        "should match",
        "a header name",
    ),
    service(
        "130 percent of a GPU",
        "revisions: {0: {gpus: {share: 130}}}",
        "revisions[0].gpus.share",
        "1 to 100, or a multiple of 100",
        "a multiple of 100",
    ),
    service(
        "negative replicas", "replicas: -1", "replicas", "should be greater than or equal to 0", "greater than or equal"
    ),
    service(
        "unknown metric",
        "autoscale: {metric: vibes, target: 1, max: 2}",
        "autoscale.metric",
        "Unsupported value",
        "'cpu_utilization'",
    ),
    service(
        "min above max",
        "autoscale: {metric: rps, target: 70, min: 10, max: 2}",
        "autoscale.min",
        "min must not be above max",
        "at most max (2)",
    ),
    service(
        "target zero",
        "autoscale: {metric: rps, target: 0, max: 2}",
        "autoscale.target",
        "should be greater than or equal to 1",
        "greater than or equal to 1",
    ),
    service(
        "no target",
        "autoscale: {metric: rps, max: 2}",
        "autoscale.target",
        "Required value",
        "required",
    ),
    service(
        "zero replicas by a metric that replicas make",
        "autoscale: {metric: cpu_utilization, target: 70, min: 0, max: 2}",
        "autoscale.min",
        "min 0 needs a metric that exists without replicas",
        "1 or more",
    ),
    service(
        "GPU utilisation above 100 percent",
        "autoscale: {metric: gpu_utilization, target: 150, max: 2}",
        "autoscale.target",
        "at most 100 percent",
        "at most 100 percent",
    ),
    service(
        "Prometheus without a query",
        "autoscale: {metric: prometheus, target: 5, max: 2}",
        "autoscale.query",
        "query belongs to the metric prometheus",
        "a query for the metric prometheus",
    ),
    service(
        "query without Prometheus",
        "autoscale: {metric: rps, target: 5, max: 2, query: up}",
        "autoscale.query",
        "query belongs to the metric prometheus",
        "a query for the metric prometheus",
    ),
    service(
        "window of no form",
        "autoscale: {metric: rps, target: 5, max: 2, behavior: {downWindow: never}}",
        "autoscale.behavior.downWindow",
        "should match",
        "90s, 15m, 2h30m or 3d",
    ),
    service(
        "negative standbys",
        "warmStandbys: -1",
        "warmStandbys",
        "should be greater than or equal to 0",
        "greater than or equal to 0",
    ),
    service("empty promise", "sla: {}", "sla", "promise something", "a promise"),
    service(
        "availability above 100 percent",
        "sla: {availability: 100.1}",
        "sla.availability",
        "should be less than or equal to 100",
        "less than or equal to 100",
    ),
    service(
        "availability zero",
        "sla: {availability: 0}",
        "sla.availability",
        "should be greater than 0",
        "greater than 0",
    ),
    service(
        "latency that is text",
        "sla: {latencyP99Ms: 200ms}",
        "sla.latencyP99Ms",
        'must be of type integer: "string"',
        "a valid integer",
    ),
    service("source without a job", "from: {}", "from.trainingJob", "Required value", "required"),
    service(
        "port beyond the last", "port: 65536", "port", "should be less than or equal to 65535", "less than or equal"
    ),
    service(
        "rollout that could not replace anything",
        "strategy: {maxSurge: 0, maxUnavailable: 0%}",
        "strategy.maxUnavailable",
        "maxUnavailable must not be 0 when maxSurge is 0",
        "more than 0",
    ),
    service("surge of a fraction", "strategy: {maxSurge: 1.5}", "strategy.maxSurge", "Invalid value", "a number of"),
    service(
        "more than all missing", "strategy: {maxUnavailable: 101%}", "strategy.maxUnavailable", "should match", "100%"
    ),
    service("deadline without a unit", "progressDeadline: '600'", "progressDeadline", "should match", "a duration"),
    Case(
        "InferenceService",
        "name too long for its pods",
        "metadata: {name: " + 54 * "a" + "}",
        "metadata.name",
        "at most 55 characters together",
        "at most 53 characters",
    ),
)
