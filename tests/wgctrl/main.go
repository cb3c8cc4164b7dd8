// Drives a WireGuard device as Kilo's agent does: through wgctrl, by the whole of what is wanted, and only if the device
// has something else. What is wanted comes as JSON on standard input; the device goes as JSON to standard output.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

type device struct {
	Name       string `json:"name"`
	PrivateKey string `json:"private_key"`
	ListenPort int    `json:"listen_port"`
	Peers      []peer `json:"peers"`
	// Whether something was written.
	Written bool `json:"written"`
}

type peer struct {
	PublicKey  string   `json:"public_key"`
	Endpoint   string   `json:"endpoint"`
	AllowedIPs []string `json:"allowed_ips"`
	// In seconds.
	Keepalive int `json:"keepalive"`
	// In Unix seconds, 0 for never.
	Handshake int64 `json:"handshake"`
	Received  int64 `json:"received"`
}

func main() {
	log.SetFlags(0)
	var wanted device
	if err := json.NewDecoder(os.Stdin).Decode(&wanted); err != nil {
		log.Fatalf("what is wanted can't be read: %v", err)
	}
	has, err := drive(wanted)
	if err != nil {
		log.Fatalf("%s: %v", wanted.Name, err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(has); err != nil {
		log.Fatal(err)
	}
}

// drive brings the device in line and returns what it has then.
func drive(wanted device) (device, error) {
	client, err := wgctrl.New()
	if err != nil {
		return device{}, err
	}
	defer client.Close()
	found, err := client.Device(wanted.Name)
	if err != nil {
		return device{}, err
	}
	has := told(found)
	if same(wanted, has) {
		return has, nil
	}
	config, err := wanted.config()
	if err != nil {
		return device{}, err
	}
	if err := client.ConfigureDevice(wanted.Name, config); err != nil {
		return device{}, err
	}
	if found, err = client.Device(wanted.Name); err != nil {
		return device{}, err
	}
	has = told(found)
	has.Written = true
	if !same(wanted, has) {
		return device{}, fmt.Errorf("it has %+v and not %+v", has, wanted)
	}
	return has, nil
}

// config is what wgctrl is given to replace everything.
func (d device) config() (wgtypes.Config, error) {
	key, err := wgtypes.ParseKey(d.PrivateKey)
	if err != nil {
		return wgtypes.Config{}, err
	}
	config := wgtypes.Config{PrivateKey: &key, ListenPort: &d.ListenPort, ReplacePeers: true}
	for _, p := range d.Peers {
		key, err := wgtypes.ParseKey(p.PublicKey)
		if err != nil {
			return wgtypes.Config{}, err
		}
		keepalive := time.Duration(p.Keepalive) * time.Second
		one := wgtypes.PeerConfig{PublicKey: key, PersistentKeepaliveInterval: &keepalive, ReplaceAllowedIPs: true}
		if p.Endpoint != "" {
			if one.Endpoint, err = net.ResolveUDPAddr("udp", p.Endpoint); err != nil {
				return wgtypes.Config{}, err
			}
		}
		for _, text := range p.AllowedIPs {
			_, prefix, err := net.ParseCIDR(text)
			if err != nil {
				return wgtypes.Config{}, err
			}
			one.AllowedIPs = append(one.AllowedIPs, *prefix)
		}
		config.Peers = append(config.Peers, one)
	}
	return config, nil
}

func told(d *wgtypes.Device) device {
	has := device{Name: d.Name, PrivateKey: d.PrivateKey.String(), ListenPort: d.ListenPort}
	for _, p := range d.Peers {
		one := peer{
			PublicKey: p.PublicKey.String(),
			Keepalive: int(p.PersistentKeepaliveInterval / time.Second),
			Received:  p.ReceiveBytes,
		}
		if p.Endpoint != nil {
			one.Endpoint = p.Endpoint.String()
		}
		if !p.LastHandshakeTime.IsZero() {
			one.Handshake = p.LastHandshakeTime.Unix()
		}
		for _, prefix := range p.AllowedIPs {
			one.AllowedIPs = append(one.AllowedIPs, prefix.String())
		}
		has.Peers = append(has.Peers, one)
	}
	return has
}

// same tells whether the device has what is wanted, in whatever order. A peer that is dialled from nowhere may be heard
// from anywhere.
func same(wanted, has device) bool {
	if wanted.PrivateKey != has.PrivateKey || wanted.ListenPort != has.ListenPort || len(wanted.Peers) != len(has.Peers) {
		return false
	}
	for _, w := range wanted.Peers {
		at := slices.IndexFunc(has.Peers, func(h peer) bool { return h.PublicKey == w.PublicKey })
		if at < 0 {
			return false
		}
		h := has.Peers[at]
		ours, theirs := slices.Sorted(slices.Values(w.AllowedIPs)), slices.Sorted(slices.Values(h.AllowedIPs))
		if w.Keepalive != h.Keepalive || !slices.Equal(ours, theirs) || (w.Endpoint != "" && w.Endpoint != h.Endpoint) {
			return false
		}
	}
	return true
}
