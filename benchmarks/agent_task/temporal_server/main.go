// A Temporal server of one process on a file of SQLite: what `temporal server start-dev --db-filename` is.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	serverlog "go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	schema "go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	port := flag.Int("port", 7233, "the frontend's; the next three and those 100 above are taken too")
	path := flag.String("db", "", "file of the database")
	flag.Parse()
	sql := config.SQL{
		PluginName:        sqlite.PluginName,
		DatabaseName:      *path,
		ConnectAttributes: map[string]string{"journal_mode": "WAL", "synchronous": "2"},
	}
	if _, err := os.Stat(*path); err != nil {
		check(schema.SetupSchema(&sql))
	}
	namespace, err := schema.NewNamespaceConfig(
		"active", "default", false, map[string]enums.IndexedValueType{})
	check(err)
	check(schema.CreateNamespaces(&sql, namespace))

	frontend := fmt.Sprintf("127.0.0.1:%d", *port)
	services := map[string]config.Service{}
	hosts := map[primitives.ServiceName]static.Hosts{}
	for number, name := range []primitives.ServiceName{
		primitives.FrontendService, primitives.HistoryService, primitives.MatchingService, primitives.WorkerService,
	} {
		own := *port + number
		services[string(name)] = config.Service{
			RPC: config.RPC{GRPCPort: own, MembershipPort: own + 100, BindOnLocalHost: true},
		}
		hosts[name] = static.SingleLocalHost(fmt.Sprintf("127.0.0.1:%d", own))
	}
	server, err := temporal.NewServer(
		temporal.WithConfig(&config.Config{
			Persistence: config.Persistence{
				DefaultStore: "sqlite", VisibilityStore: "sqlite", NumHistoryShards: 4,
				DataStores: map[string]config.DataStore{"sqlite": {SQL: &sql}},
			},
			ClusterMetadata: &cluster.Config{
				EnableGlobalNamespace: false, FailoverVersionIncrement: 10,
				MasterClusterName: "active", CurrentClusterName: "active",
				ClusterInformation: map[string]cluster.ClusterInformation{
					"active": {Enabled: true, InitialFailoverVersion: 1, RPCAddress: frontend},
				},
			},
			DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
			Services:            services,
			PublicClient:        config.PublicClient{HostPort: frontend},
		}),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts),
		temporal.WithLogger(serverlog.NewNoopLogger()),
		temporal.WithDynamicConfigClient(dynamicconfig.StaticClient{}),
		temporal.InterruptOn(temporal.InterruptCh()),
	)
	check(err)
	check(server.Start())
}
