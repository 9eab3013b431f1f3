// Command daprd is Dapr's sidecar with the components that the mesh uses and no others.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/dapr/dapr/cmd/daprd/options"
	"github.com/dapr/dapr/pkg/buildinfo"
	"github.com/dapr/dapr/pkg/healthz"
	"github.com/dapr/dapr/pkg/metrics"
	"github.com/dapr/dapr/pkg/modes"
	"github.com/dapr/dapr/pkg/runtime"
	"github.com/dapr/dapr/pkg/runtime/registry"
	"github.com/dapr/dapr/pkg/security"
	"github.com/dapr/kit/concurrency"
	"github.com/dapr/kit/logger"
	"github.com/dapr/kit/signals"
)

var log = logger.NewLogger("dapr.runtime")

// listComponents is the one argument that prints the component types that this daprd knows, and ends.
const listComponents = "--known-components"

func main() {
	if len(os.Args) == 2 && os.Args[1] == listComponents {
		for _, known := range register(logger.NewLogger("dapr.contrib")) {
			fmt.Println(known)
		}
		return
	}
	opts, err := options.New(os.Args[1:])
	if err != nil {
		log.Fatal(err)
	}
	switch {
	case opts.RuntimeVersion:
		fmt.Println(buildinfo.Version())
	case opts.BuildInfo:
		fmt.Printf("Version: %s\nGit Commit: %s\nGit Version: %s\n",
			buildinfo.Version(), buildinfo.Commit(), buildinfo.GitVersion())
	case opts.WaitCommand:
		runtime.WaitUntilDaprOutboundReady(opts.DaprHTTPPort)
	default:
		if err := serve(signals.Context(), opts); err != nil {
			log.Fatal(err)
		}
	}
}

// serve runs the sidecar until the context ends, then shuts it down in order.
func serve(ctx context.Context, opts *options.Options) error {
	register(logger.NewLogger("dapr.contrib"))
	opts.Logger.SetAppID(opts.AppID)
	if err := logger.ApplyOptionsToLoggers(&opts.Logger); err != nil {
		return err
	}
	health := healthz.New()
	provider, err := security.New(ctx, security.Options{
		AppID:                   opts.AppID,
		Mode:                    modes.DaprMode(opts.Mode),
		MTLSEnabled:             opts.EnableMTLS,
		SentryAddress:           opts.SentryAddress,
		TrustAnchors:            opts.TrustAnchors,
		ControlPlaneNamespace:   opts.ControlPlaneNamespace,
		ControlPlaneTrustDomain: opts.ControlPlaneTrustDomain,
		JwtAudiences:            opts.SentryRequestJwtAudiences,
		Healthz:                 health,
	})
	if err != nil {
		return err
	}
	sidecar := func(ctx context.Context) error {
		handler, err := provider.Handler(ctx)
		if err != nil {
			return err
		}
		dapr, err := runtime.FromConfig(ctx, config(opts, handler, health))
		if err != nil {
			return err
		}
		return dapr.Run(ctx)
	}
	return concurrency.NewRunnerManager(provider.Run, sidecar).Run(ctx)
}

// config hands every flag to the runtime under the name that it has there.
func config(opts *options.Options, handler security.Handler, health healthz.Healthz) *runtime.Config {
	return &runtime.Config{
		Registry: registry.NewOptions(),
		Security: handler,
		Healthz:  health,
		Metrics: metrics.Options{
			Enabled:       opts.Metrics.Enabled(),
			ListenAddress: opts.Metrics.ListenAddress(),
			Port:          opts.Metrics.Port(),
			Namespace:     metrics.DefaultMetricNamespace,
			Log:           log,
			Healthz:       health,
		},

		AppID:             opts.AppID,
		ApplicationPort:   opts.AppPort,
		AppChannelAddress: opts.AppChannelAddress,
		AppProtocol:       opts.AppProtocol,
		AppSSL:            opts.AppSSL,
		AppMaxConcurrency: opts.AppMaxConcurrency,

		EnableAppHealthCheck:   opts.EnableAppHealthCheck,
		AppHealthCheckPath:     opts.AppHealthCheckPath,
		AppHealthProbeInterval: opts.AppHealthProbeInterval,
		AppHealthProbeTimeout:  opts.AppHealthProbeTimeout,
		AppHealthThreshold:     opts.AppHealthThreshold,

		DaprAPIListenAddresses:        opts.DaprAPIListenAddresses,
		DaprHTTPPort:                  opts.DaprHTTPPort,
		DaprAPIGRPCPort:               opts.DaprAPIGRPCPort,
		DaprInternalGRPCListenAddress: opts.DaprInternalGRPCListenAddress,
		DaprInternalGRPCPort:          opts.DaprInternalGRPCPort,
		DaprPublicListenAddress:       opts.DaprPublicListenAddress,
		DaprPublicPort:                opts.DaprPublicPort,
		UnixDomainSocket:              opts.UnixDomainSocket,
		AllowedOrigins:                opts.AllowedOrigins,
		MaxRequestSize:                opts.MaxRequestSize,
		ReadBufferSize:                opts.ReadBufferSize,

		ActorsService:              opts.ActorsService,
		ActorsDisseminationTimeout: opts.ActorsDisseminationTimeout,
		RemindersService:           opts.RemindersService,
		SchedulerAddress:           opts.SchedulerAddress,
		SchedulerStreams:           opts.SchedulerJobStreams,

		Mode:                         opts.Mode,
		Config:                       opts.Config,
		ComponentsPath:               opts.ComponentsPath,
		ResourcesPath:                opts.ResourcesPath,
		HotReloadReconcileInterval:   opts.HotReloadReconcileInterval,
		DisableInitEndpoints:         opts.DisableInitEndpoints,
		DisableBuiltinK8sSecretStore: opts.DisableBuiltinK8sSecretStore,

		ControlPlaneAddress: opts.ControlPlaneAddress,
		EnableMTLS:          opts.EnableMTLS,
		SentryAddress:       opts.SentryAddress,

		DaprBlockShutdownDuration:   opts.DaprBlockShutdownDuration,
		DaprGracefulShutdownSeconds: opts.DaprGracefulShutdownSeconds,
		EnableAPILogging:            opts.EnableAPILogging,
		EnableProfiling:             opts.EnableProfiling,
		ProfilePort:                 opts.ProfilePort,
	}
}
