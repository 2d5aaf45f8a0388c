-- Granted jobs whose list entry is gone are pushed anew under the next fence: ARGV = age (ms), id, …
-- Safe at any time: an entry with an older fence is void. One whose spec is gone as well ends failed. Answer: the ids
-- that were pushed.
local told, rung = {}, {}
adds()
for i = 2, #ARGV do
  local j = read(ARGV[i])
  if j and j.state == 'granted' and NOW - tonumber(call('HGET', j.key, 'granted') or NOW) >= tonumber(ARGV[1]) then
    local spec = call('GET', P .. 'Spec:' .. j.id)
    local fence = call('HINCRBY', j.key, 'fence', 1)
    if spec then
      call('HSET', j.key, 'granted', NOW)
      call('RPUSH', P .. 'Granted_Queue' .. lane(j.system), '{"id":"' .. j.id .. '","fence":' .. fence .. ',"run":' .. j.run ..
        ',"arrival":' .. arrival_of(j.score) .. ',"system":"' .. j.system .. '","spec":' .. spec .. '}')
      told[#told + 1] = j.id
    else
      without_spec(j, 'failed')
      rung[#rung + 1] = ring(j) and j.id or '' -- there is room again, whoever waits for it
    end
  end
end
if #rung > 0 then call('RPUSH', P .. 'Result_Queue', unpack(rung)) end
publish()
return told
