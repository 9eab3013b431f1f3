package main

import (
	"github.com/dapr/components-contrib/nameresolution/mdns"
	nrsqlite "github.com/dapr/components-contrib/nameresolution/sqlite"
	psmemory "github.com/dapr/components-contrib/pubsub/in-memory"
	mqtt "github.com/dapr/components-contrib/pubsub/mqtt3"
	psredis "github.com/dapr/components-contrib/pubsub/redis"
	"github.com/dapr/components-contrib/secretstores/local/env"
	"github.com/dapr/components-contrib/secretstores/local/file"
	statememory "github.com/dapr/components-contrib/state/in-memory"
	stateredis "github.com/dapr/components-contrib/state/redis"
	statesqlite "github.com/dapr/components-contrib/state/sqlite"
	"github.com/dapr/dapr/pkg/components/nameresolution"
	"github.com/dapr/dapr/pkg/components/pubsub"
	"github.com/dapr/dapr/pkg/components/secretstores"
	"github.com/dapr/dapr/pkg/components/state"
	"github.com/dapr/kit/logger"
)

// register makes known every component type that this daprd knows; each other type is refused by name.
func register(log logger.Logger) {
	states := state.DefaultRegistry
	states.Logger = log
	states.RegisterComponent(statememory.NewInMemoryStateStore, "in-memory")
	states.RegisterComponent(stateredis.NewRedisStateStore, "redis")
	states.RegisterComponent(statesqlite.NewSQLiteStateStore, "sqlite")

	pubsubs := pubsub.DefaultRegistry
	pubsubs.Logger = log
	pubsubs.RegisterComponent(psmemory.New, "in-memory")
	pubsubs.RegisterComponent(mqtt.NewMQTTPubSub, "mqtt3")
	pubsubs.RegisterComponent(psredis.NewRedisStreams, "redis")

	secrets := secretstores.DefaultRegistry
	secrets.Logger = log
	secrets.RegisterComponent(env.NewEnvSecretStore, "local.env")
	secrets.RegisterComponent(file.NewLocalSecretStore, "local.file")

	names := nameresolution.DefaultRegistry
	names.Logger = log
	names.RegisterComponent(mdns.NewResolver, "mdns")
	names.RegisterComponent(nrsqlite.NewResolver, "sqlite")
}
