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
	"github.com/dapr/components-contrib/state/mongodb"
	"github.com/dapr/components-contrib/state/mysql"
	postgresql "github.com/dapr/components-contrib/state/postgresql/v2"
	stateredis "github.com/dapr/components-contrib/state/redis"
	statesqlite "github.com/dapr/components-contrib/state/sqlite"
	"github.com/dapr/dapr/pkg/components"
	"github.com/dapr/dapr/pkg/components/nameresolution"
	"github.com/dapr/dapr/pkg/components/pubsub"
	"github.com/dapr/dapr/pkg/components/secretstores"
	"github.com/dapr/dapr/pkg/components/state"
	"github.com/dapr/kit/logger"
)

// register makes known every component type that this daprd knows, and returns them with their versions; each
// other type is refused by name.
func register(log logger.Logger) []string {
	var types []string
	known := func(kind, name, version string) string {
		types = append(types, kind+"."+name+"/"+version)
		return name
	}

	states := state.DefaultRegistry
	states.Logger = log
	states.RegisterComponent(statememory.NewInMemoryStateStore, known("state", "in-memory", "v1"))
	states.RegisterComponent(mongodb.NewMongoDB, known("state", "mongodb", "v1"))
	states.RegisterComponent(mysql.NewMySQLStateStore, known("state", "mysql", "v1"))
	// Version 1 stores values in another way, which Dapr advises against.
	states.RegisterComponentWithVersions(known("state", "postgresql", "v2"), components.Versioning{
		Preferred: components.VersionConstructor{Version: "v2", Constructor: postgresql.NewPostgreSQLStateStore},
		Default:   "v2",
	})
	states.RegisterComponent(stateredis.NewRedisStateStore, known("state", "redis", "v1"))
	states.RegisterComponent(statesqlite.NewSQLiteStateStore, known("state", "sqlite", "v1"))

	pubsubs := pubsub.DefaultRegistry
	pubsubs.Logger = log
	pubsubs.RegisterComponent(psmemory.New, known("pubsub", "in-memory", "v1"))
	pubsubs.RegisterComponent(mqtt.NewMQTTPubSub, known("pubsub", "mqtt3", "v1"))
	pubsubs.RegisterComponent(psredis.NewRedisStreams, known("pubsub", "redis", "v1"))

	secrets := secretstores.DefaultRegistry
	secrets.Logger = log
	secrets.RegisterComponent(env.NewEnvSecretStore, known("secretstores", "local.env", "v1"))
	secrets.RegisterComponent(file.NewLocalSecretStore, known("secretstores", "local.file", "v1"))

	names := nameresolution.DefaultRegistry
	names.Logger = log
	names.RegisterComponent(mdns.NewResolver, known("nameresolution", "mdns", "v1"))
	names.RegisterComponent(nrsqlite.NewResolver, known("nameresolution", "sqlite", "v1"))
	return types
}
